// LoRA adapters by slot and tensor: filled at run time, read by rows that name a slot.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "cpu/types.h"

namespace lk::cpu {

struct Adapter {
    int64_t rank = 0;      // 0: `b` is a delta of its own (norms)
    std::vector<float> a;  // (rank, n_in)
    std::vector<float> b;  // (n_out, rank), or (n)
    float scale = 1;
};

class AdapterTable {
  public:
    explicit AdapterTable(int32_t n) : n_slot(n), slots_(size_t(n) + 1) {}
    void set(int32_t slot, std::map<std::string, Adapter> adapters) { slots_.at(size_t(slot)) = std::move(adapters); }
    const Adapter* find(int32_t slot, const std::string& target) const;

    int32_t n_slot;

  private:
    std::vector<std::map<std::string, Adapter>> slots_;
};

// y += scale * (x A^T) B^T for one row. `middle` has room for `rank` values.
void apply_linear(const KernelTable& kernels, const Adapter& adapter, const float* x, int64_t n_in, int64_t n_out,
                  float* y, std::vector<float>& middle);
// y += scale * B[token] A.
void apply_embedding(const KernelTable& kernels, const Adapter& adapter, int64_t token, int64_t n_embd, float* y);

}  // namespace lk::cpu
