#include "cpu/adapters.h"

namespace lk::cpu {

const Adapter* AdapterTable::find(int32_t slot, const std::string& target) const {
    if (slot <= 0) return nullptr;
    const auto& adapters = slots_[size_t(slot)];
    const auto found = adapters.find(target);
    return found == adapters.end() ? nullptr : &found->second;
}

void apply_linear(const KernelTable& kernels, const Adapter& adapter, const float* x, int64_t n_in, int64_t n_out,
                  float* y, std::vector<float>& middle) {
    middle.resize(size_t(adapter.rank));
    for (int64_t r = 0; r < adapter.rank; ++r) middle[size_t(r)] = kernels.dot(x, &adapter.a[size_t(r * n_in)], n_in);
    for (int64_t o = 0; o < n_out; ++o)
        y[o] += adapter.scale * kernels.dot(&adapter.b[size_t(o * adapter.rank)], middle.data(), adapter.rank);
}

void apply_embedding(const KernelTable& kernels, const Adapter& adapter, int64_t token, int64_t n_embd, float* y) {
    for (int64_t r = 0; r < adapter.rank; ++r)
        kernels.axpy(adapter.scale * adapter.b[size_t(token * adapter.rank + r)], &adapter.a[size_t(r * n_embd)],
                     n_embd, y);
}

}  // namespace lk::cpu
