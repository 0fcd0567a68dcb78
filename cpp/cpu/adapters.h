// LoRA adapters by slot and tensor: filled at run time, read by rows that name a slot.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cpu/pack.h"
#include "cpu/pool.h"
#include "cpu/types.h"

namespace lk::cpu {

struct Adapter {
    WeightView a{}, b{};       // (rank, n_in) and (n_out, rank), in the memory of the slot
    std::vector<float> delta;  // of a norm, which has no `a` and `b`
    float scale = 1;
    mutable std::vector<float> rows;  // A row by row, for embeddings; made when first needed

    int64_t rank() const { return a.n_out; }
};

// What a slot is filled with: `a` is null for a norm, whose `b` is a vector.
struct AdapterSource {
    std::shared_ptr<Weight> a, b;
    float scale;
};

// Rows of a step, one after the other, that have the same adapter.
struct AdapterRun {
    int64_t from, count;
    const Adapter* adapter;
};

class AdapterTable {
  public:
    explicit AdapterTable(int32_t n) : n_slot(n), slots_(size_t(n) + 1) {}
    void set(int32_t slot, const std::map<std::string, AdapterSource>& sources);
    // The runs among n rows whose slot adapts `target`; `slots` may be null.
    std::vector<AdapterRun> runs(const int32_t* slots, int64_t n, const std::string& target) const;

    int32_t n_slot;

  private:
    struct Slot {
        std::unique_ptr<Arena>
            memory;  // one piece for all: small ones would lie in small pages, which are slow to stream
        std::map<std::string, Adapter> adapters;
    };
    std::vector<Slot> slots_;
};

// y += scale * (x A^T) B^T of one linear. First `multiply` makes x A^T, split along k at places that depend on n_in
// alone; then `add` makes the rest for any panels of the output. So no bit depends on threads or on other rows.
class LinearDelta {
  public:
    static constexpr int64_t kRows = 32, kPanels = 8;               // the most that `add` handles in one kernel call
    static constexpr int64_t kSegment = 512;                        // values along k in one sum of x A^T
    static constexpr size_t kBytes = kRows * kPanels * kLanes * 4;  // of thread memory that `add` takes for itself

    // Bytes of thread memory that both need.
    static size_t scratch_bytes(const KernelTable& kernels, const std::vector<AdapterRun>& runs);
    void multiply(const KernelTable& kernels, Pool& pool, std::vector<std::vector<uint8_t>>& scratch,
                  std::vector<AdapterRun> runs, const float* x, int64_t ldx, int64_t n_rows);
    // Begin to bring what `add` will read for these panels into the cache.
    void fetch(int64_t begin, int64_t end) const;
    // Panels [begin, end), at most kPanels of them, of all rows.
    void add(const KernelTable& kernels, int64_t begin, int64_t end, float* y, int64_t ldy, uint8_t* scratch) const;

  private:
    std::vector<AdapterRun> runs_;
    std::vector<float> middle_;  // (segments, rows, width)
    int64_t width_ = 0;          // the largest rank, in whole panels
};

// A of each run's adapter, row by row, for `apply_embedding`.
void unpack_rows(const KernelTable& kernels, const std::vector<AdapterRun>& runs);
// y += scale * B[token] A. `middle` is memory of the caller.
void apply_embedding(const KernelTable& kernels, const Adapter& adapter, int64_t token, int64_t n_embd, float* y,
                     std::vector<float>& middle);

}  // namespace lk::cpu
