// A tensor packed into panels of 16 output rows while it is read.
#pragma once
#include <vector>

#include "cpu/arena.h"
#include "cpu/types.h"

namespace lk::cpu {

// The layout of a tensor of that GGUF type, without data. Throws std::invalid_argument for types and sizes it cannot
// do.
WeightView layout(int type, int64_t n_out, int64_t n_in);
int64_t packed_bytes(const WeightView& view);

class Weight {
  public:
    Weight(int type, int64_t n_out, int64_t n_in);
    // The next bytes of the tensor as it lies in the file.
    void feed(const uint8_t* bytes, int64_t n);
    // Throws std::invalid_argument if bytes are missing.
    void finish();
    const WeightView& view() const { return view_; }
    int64_t n_bytes() const { return int64_t(arena_.size()); }

  private:
    void pack(int64_t row, const uint8_t* bytes);

    int type_;
    WeightView view_;
    int64_t row_bytes_, row_ = 0;
    std::vector<uint8_t> carry_;  // a row that began in an earlier piece
    Arena arena_;
};

}  // namespace lk::cpu
