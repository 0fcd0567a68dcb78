// Plain structs of the kernels that training needs; as in types.h, nothing here may be an inline function or a
// template.
#pragma once
#include "cpu/types.h"

namespace lk::cpu {

// Products are summed in blocks of so many values along k: one accumulator a block, blocks added in order. Whoever
// computes an element, and with whatever others, it has the same bits.
constexpr int kDepth = 256;
// Columns of the right side that a thread unpacks at a time.
constexpr int kColumnsTogether = 4 * kLanes;

// A matrix of float32 somewhere in memory: element (i, j) at data[i * row + j * column].
struct Strided {
    const float* data;
    int64_t row, column;
};

// The right side B (k, n) of a product: float32 in memory; or, with `weight`, a packed weight W as its float32 values,
// transposed (k = n_in, n = n_out) or, `back`, as it is (k = n_out, n = n_in).
struct Right {
    Strided values;
    const WeightView* weight;
    bool back;
};

// One block of C (m, n) = A (m, k) B (k, n) + what C had: rows [0, m), columns [n_begin, n_end), and k values along k
// from k_begin on, where k_begin is a multiple of kDepth and n_begin one of kColumnsTogether.
struct ProductTask {
    int64_t m, k_begin, k, n_begin, n_end;
    const float* packed_a;  // as `pack_left` made it; or null:
    Strided a;              // A from its column k_begin on
    const float* packed_b;  // as `pack_right` made it, from column n_begin on; or null
    Right b;
    bool pairs;         // operands are rounded to bfloat16
    bool add;           // to C
    const float* bias;  // of n values, or null
    float* c;
    int64_t c_row;
};

struct ProductKernels {
    int tile;  // rows that a register tile has
    // Rows [0, rows) and k values along k of A, to tiles [k][tile]; the tile at row r begins at out + r * k (of pairs:
    // r * (k + 1) / 2).
    void (*pack_left)(const Strided& a, int64_t rows, int64_t k, bool pairs, float* out);
    // A block of B to panels [k][16], or [k / 2][16][2] of bfloat16, kDepth * 16 floats each.
    void (*pack_right)(const Right& b, int64_t k_begin, int64_t k, int64_t n_begin, int64_t n_end, bool pairs,
                       float* out);
    // `scratch`: room for kColumnsTogether columns of B.
    void (*product)(const ProductTask& task, float* scratch);
};

// Attention without a cache goes by blocks of so many keys, and of so many rows: heads that share a KV head times
// positions.
constexpr int kKeyBlock = 64;
constexpr int kQueryRows = 96;

// Attention of one sequence with one KV head: `rows` are the rows of the step that it has, in order.
struct RowsTask {
    int64_t n;
    const int32_t* rows;
    int64_t n_head, n_head_kv, head_kv, group, dim_k, dim_v, window;
    float scale;
    const float *q, *k, *v;      // (step's rows, heads, dim)
    float *k_panels, *v_panels;  // whole blocks of keys: dim_k floats a key, and dim_v in whole registers
    float *out, *log_sum_exp;    // (step's rows, n_head, dim_v), (step's rows, n_head)
    const float* dout;
    float *dq, *dk, *dv;
};

struct RowsKernels {
    // Blocks [begin, end) of the keys and values, to their panels.
    void (*pack)(const RowsTask& task, int64_t begin, int64_t end);
    // Positions [begin, begin + count); count times the group is at most kQueryRows, or count is 1.
    void (*attend)(const RowsTask& task, int64_t begin, int64_t count, float* scratch);
    // All gradients that the sequence has by way of this KV head. Panels are not needed.
    void (*attend_back)(const RowsTask& task, float* scratch);
    // Floats of scratch.
    int64_t (*scratch)(const RowsTask& task);
    int64_t (*back_scratch)(const RowsTask& task);
};

enum class ReduceKind : int { sum, sum_squares, max_abs };

// What an instruction of a map does with its operands; the second one of those with one operand is the first again.
enum class MapOp : int { add, subtract, multiply, divide, minimum, maximum, square_root, absolute, sign, copy };

// vectors[to] = op(a, b); operands from 0 on are vectors, -1 - i is value i, the same for all elements. An instruction
// may write what it reads.
struct MapInstruction {
    MapOp op;
    int a, b, to;
};

struct TrainingKernels {
    ProductKernels products;
    RowsKernels rows;
    float (*norm_factor)(const float* x, float epsilon, int64_t n);
    void (*norm_back)(const float* x, const float* dy, const float* weight, float epsilon, int64_t n, float* dx);
    // Of y = (x - mean) / deviation * weight; dx may lie where x or dy does.
    void (*layer_norm_back)(const float* x, const float* dy, const float* weight, float epsilon, int64_t n, float* dx);
    void (*add_columns)(const float* x, const float* other, const float* factors, int64_t n_row, int64_t width,
                        int64_t begin, int64_t end, float* y);
    void (*gated_back)(const float* gate, const float* up, const float* dy, bool gelu, int64_t n, float* dgate,
                       float* dup);
    void (*slopes)(const float* x, Activation kind, int64_t n, float* y);
    double (*reduce)(const float* x, ReduceKind kind, int64_t n);
    void (*map)(const MapInstruction* code, int n_code, float* const* vectors, const float* values, int64_t n);
};

}  // namespace lk::cpu
