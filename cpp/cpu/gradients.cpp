#include "cpu/gradients.h"

#include <algorithm>
#include <functional>
#include <numeric>

namespace lk::cpu {
namespace {

constexpr int64_t kSerialValues = 1 << 14;    // below which waking threads costs more than it gives
constexpr int64_t kRows = 16, kColumns = 64;  // of a task
constexpr int64_t kReduced = 4096;            // values that are summed on their own; a multiple of a state's block
constexpr int64_t kBlocksPerTask = 16;

void add_columns(const KernelTable& kernels, Pool& pool, const float* x, const float* other, const float* factors,
                 int64_t n_row, int64_t width, float* into) {
    run_on(pool, n_row * width < kSerialValues, pieces_of(width, kColumns), [&](int64_t i, int) {
        kernels.training->add_columns(x, other, factors, n_row, width, i * kColumns,
                                      std::min(width, (i + 1) * kColumns), into);
    });
}

}  // namespace

void rms_norm_back(const KernelTable& kernels, Pool& pool, Workspace& memory, const float* x, const float* dy,
                   const float* weight, float epsilon, int64_t n_row, int64_t n, float* dx, float* grad) {
    float* factors = memory.held(n_row);
    // dx may lie where x or dy does, so the weight's gradient, which needs both, comes first.
    const auto rows = [&](bool only_factors) {
        run_on(pool, n_row * n < kSerialValues, pieces_of(n_row, kRows), [&](int64_t i, int) {
            for (int64_t r = i * kRows; r < std::min(n_row, (i + 1) * kRows); ++r) {
                const int64_t at = r * n;
                if (only_factors)
                    factors[r] = kernels.training->norm_factor(x + at, epsilon, n);
                else
                    kernels.training->norm_back(x + at, dy + at, weight, epsilon, n, dx + at);
            }
        });
    };
    if (grad) {
        rows(true);
        add_columns(kernels, pool, x, dy, factors, n_row, n, grad);
    }
    rows(false);
}

void layer_norm_back(const KernelTable& kernels, Pool& pool, Workspace& memory, const float* x, const float* dy,
                     const float* weight, float epsilon, int64_t n_row, int64_t n, float* dx, float* grad) {
    const auto rows = [&](const std::function<void(int64_t)>& body) {
        run_on(pool, n_row * n < kSerialValues, pieces_of(n_row, kRows), [&](int64_t i, int) {
            for (int64_t r = i * kRows; r < std::min(n_row, (i + 1) * kRows); ++r) body(r * n);
        });
    };
    if (grad) {  // first, as dx may lie where x or dy does
        float* normal = memory.held(n_row * n);
        rows([&](int64_t at) { kernels.layer_norm(x + at, nullptr, nullptr, epsilon, n, normal + at); });
        add_columns(kernels, pool, normal, dy, nullptr, n_row, n, grad);
    }
    rows([&](int64_t at) { kernels.training->layer_norm_back(x + at, dy + at, weight, epsilon, n, dx + at); });
}

void sum_rows(const KernelTable& kernels, Pool& pool, const float* x, int64_t n_row, int64_t width, float* into) {
    add_columns(kernels, pool, x, nullptr, nullptr, n_row, width, into);
}

void scatter_rows(const KernelTable& kernels, Pool& pool, const float* dy, const int32_t* indices, int64_t n_row,
                  int64_t width, float* into) {
    std::vector<int32_t> order(static_cast<size_t>(n_row));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return indices[a] < indices[b]; });
    std::vector<int64_t> first;  // of each index, in `order`
    for (int64_t i = 0; i < n_row; ++i)
        if (i == 0 || indices[order[size_t(i)]] != indices[order[size_t(i - 1)]]) first.push_back(i);
    first.push_back(n_row);
    const int64_t n_index = int64_t(first.size()) - 1;
    run_on(pool, n_row * width < kSerialValues, n_index, [&](int64_t i, int) {
        for (int64_t at = first[size_t(i)]; at < first[size_t(i + 1)]; ++at) {
            const int32_t row = order[size_t(at)];
            float* to = into + indices[row] * width;
            kernels.add(to, dy + row * width, width, to);
        }
    });
}

double reduce(const KernelTable& kernels, Pool& pool, Workspace& memory, const State& state, ReduceKind kind) {
    const int64_t n = state.size(), n_block = pieces_of(n, kReduced);
    std::vector<double> parts(static_cast<size_t>(n_block));
    const float* values = state.type() == StateType::f32 ? const_cast<State&>(state).floats() : nullptr;
    run_on(pool, n < kSerialValues, pieces_of(n_block, kBlocksPerTask), [&](int64_t task, int thread) {
        for (int64_t i = task * kBlocksPerTask; i < std::min(n_block, (task + 1) * kBlocksPerTask); ++i) {
            const int64_t begin = i * kReduced, end = std::min(n, begin + kReduced);
            const float* x = values + begin;
            if (!values) {
                float* own = memory.own(thread, kReduced);
                state.read(begin, end, own);
                x = own;
            }
            parts[size_t(i)] = kernels.training->reduce(x, kind, end - begin);
        }
    });
    double total = 0.0;
    for (double part : parts) total = kind == ReduceKind::max_abs ? std::max(total, part) : total + part;
    return total;
}

}  // namespace lk::cpu
