// Weights as the kernels want them: panels of 16 output rows, in memory of our own.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cpu/pool.h"
#include "cpu/types.h"

namespace lk::cpu {

// Memory aligned to 64 bytes, in huge pages where the system gives them.
class Arena {
  public:
    explicit Arena(size_t n_bytes);
    ~Arena();
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;
    uint8_t* data() const { return data_; }
    size_t size() const { return size_; }

  private:
    uint8_t* data_ = nullptr;
    uint8_t* mapped_ = nullptr;  // where the mapping of a large arena begins; data_ is aligned within it
    size_t size_;
};

// In which form activations meet a weight of this type; throws std::invalid_argument for one that cannot be packed.
ActForm act_form(int type);
// Panels [begin, end) of a weight on their own; if it is not packed, made in `memory`.
WeightView panels_of(const WeightView& weight, int64_t begin, int64_t end, std::vector<uint8_t>& memory);
// One row as float32.
void read_row(const KernelTable& kernels, const WeightView& weight, int64_t row, float* y);

// A matrix in panels, or where it lies in a file, or a vector of float32 (`vector` not empty).
class Weight {
  public:
    // `type` is the GGUF number; a matrix is (n_out, n_in), a vector has n_out 1. Rows are handed to `append` in order.
    Weight(int type, int64_t n_out, int64_t n_in, bool is_vector);
    // A matrix that is not packed: n bytes in GGUF's blocks, which `owner` keeps.
    Weight(int type, int64_t n_out, int64_t n_in, const uint8_t* rows, size_t n, std::shared_ptr<void> owner);

    // Values of float32, row-major, in memory that `owner` keeps: a vector, or a matrix that is packed as it is used.
    Weight(float* values, int64_t n_out, int64_t n_in, bool is_vector, std::shared_ptr<void> owner);

    static int64_t packed_bytes(int type, int64_t n_out, int64_t n_in, bool is_vector);
    // The next bytes of the tensor; any number of them, best a multiple of 16 rows.
    void append(const uint8_t* bytes, size_t n, Pool& pool);
    void finish(Pool& pool);  // throws if bytes are missing

    int64_t n_bytes() const { return arena_ ? int64_t(arena_->size()) : int64_t(copy_.size() * 4); }
    bool is_vector() const { return is_vector_; }
    WeightView view{};
    const float* vector = nullptr;  // view.n_out * view.n_in values

  private:
    void pack(const uint8_t* rows, int64_t n, Pool& pool);

    int type_;
    bool is_vector_;
    int64_t row_ = 0, row_bytes_;
    std::vector<uint8_t> partial_;  // of a panel that is not complete
    std::vector<float> copy_;       // of a vector
    std::unique_ptr<Arena> arena_;
    std::shared_ptr<void> owner_;
};

}  // namespace lk::cpu
