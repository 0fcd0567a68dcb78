// Attention of the rows of a step among themselves, without a cache, and its gradients.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/gemm.h"

namespace lk::cpu {

// Rows of q (n_row, n_head, dim_k), k (n_row, n_head_kv, dim_k) and v (n_row, n_head_kv, dim_v). A row sees those of
// its own sequence up to itself, at most `window` of them if that is not 0.
struct RowsAttention {
    int64_t n_row, n_head, n_head_kv, dim_k, dim_v, window;
    float scale;
    const int32_t* sequences;  // of each row; rows of several may lie among each other
    const float *q, *k, *v;
};

// The rows of each sequence, in order.
std::vector<std::vector<int32_t>> rows_of_sequences(const int32_t* sequences, int64_t n_row);
// The most that `attend_rows` and `attend_rows_back` take, were all rows one sequence.
WorkspaceFloats attention_floats(const KernelTable& kernels, const RowsAttention& a, bool back);
// out (n_row, n_head, dim_v), and log_sum_exp (n_row, n_head) of the scaled scores unless it is null.
void attend_rows(const KernelTable& kernels, Pool& pool, Workspace& memory, const RowsAttention& a, float* out,
                 float* log_sum_exp);
// Gradients by q, k and v from those by `out`. A task is a sequence and a KV head: nobody shares a sum.
void attend_rows_back(const KernelTable& kernels, Pool& pool, Workspace& memory, const RowsAttention& a,
                      const float* out, const float* log_sum_exp, const float* dout, float* dq, float* dk, float* dv);

}  // namespace lk::cpu
