// Gradients of operations on rows, and sums, on all threads of a pool; the same bits at any number of them.
#pragma once

#include "cpu/gemm.h"
#include "cpu/state.h"

namespace lk::cpu {

// The gradient of x (n_row, n) in rms_norm to dx, and that of the weight added to `grad` unless it is null.
void rms_norm_back(const KernelTable& kernels, Pool& pool, Workspace& memory, const float* x, const float* dy,
                   const float* weight, float epsilon, int64_t n_row, int64_t n, float* dx, float* grad);
// The same of layer_norm; that of its bias is a sum of rows.
void layer_norm_back(const KernelTable& kernels, Pool& pool, Workspace& memory, const float* x, const float* dy,
                     const float* weight, float epsilon, int64_t n_row, int64_t n, float* dx, float* grad);
// into (width,) += the sum over the rows of x (n_row, width).
void sum_rows(const KernelTable& kernels, Pool& pool, const float* x, int64_t n_row, int64_t width, float* into);
// into[indices[r]] += row r of dy (n_row, width), rows of one index in their order. Indices are in range.
void scatter_rows(const KernelTable& kernels, Pool& pool, const float* dy, const int32_t* indices, int64_t n_row,
                  int64_t width, float* into);
// Of all values of a state.
double reduce(const KernelTable& kernels, Pool& pool, Workspace& memory, const State& state, ReduceKind kind);

}  // namespace lk::cpu
