// Products of matrices on all threads of a pool.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "cpu/pack.h"
#include "cpu/pool.h"
#include "cpu/training_types.h"

namespace lk::cpu {

inline int64_t pieces_of(int64_t n, int64_t size) {
    return (n + size - 1) / size;
}
// pool.run, or where it is not worth waking threads, the same by the caller alone.
void run_on(Pool& pool, bool serial, int64_t n, const std::function<void(int64_t, int)>& body);

// Memory that steps work with and forget: one piece for all threads, one for each, and one that a step holds while it
// calls for products, which use the others.
class Workspace {
  public:
    explicit Workspace(int n_thread) : own_(size_t(n_thread)), panels_(size_t(n_thread)) {}
    float* shared(int64_t n_float) { return grown(shared_, n_float); }
    float* held(int64_t n_float) { return grown(held_, n_float); }
    float* own(int thread, int64_t n_float) { return grown(own_[size_t(thread)], n_float); }
    std::vector<uint8_t>& panels(int thread) { return panels_[size_t(thread)]; }
    int64_t n_bytes() const;

  private:
    static float* grown(std::unique_ptr<Arena>& arena, int64_t n_float);

    std::unique_ptr<Arena> shared_, held_;
    std::vector<std::unique_ptr<Arena>> own_;
    std::vector<std::vector<uint8_t>> panels_;  // of weights that are not packed
};

// C (m, n) = A (m, k) B (k, n) + bias, or, with `add`, C += A B. Element (i, j) of C lies at c[i * c_row + j *
// c_column].
struct Product {
    int64_t m, n, k;
    Strided a;
    Right b;
    float* c;
    int64_t c_row, c_column = 1;
    bool add = false;
    bool pairs = false;  // operands rounded to bfloat16; of use where the processor has such products
    const float* bias = nullptr;
};

// Floats of each kind of memory that something takes of a workspace.
struct WorkspaceFloats {
    int64_t shared = 0, held = 0, own = 0;
};
// The most that a product of these sizes takes.
WorkspaceFloats product_floats(int64_t m, int64_t n, int64_t k);

// Every element has the same bits whatever the number of threads, and whatever other rows or columns there are.
void multiply(const KernelTable& kernels, Pool& pool, Workspace& memory, const Product& product);

// A matrix of rows in memory, `width` floats each, and the same turned over.
inline Strided rows_of(const float* data, int64_t width) {
    return {data, width, 1};
}
inline Strided transposed(const Strided& x) {
    return {x.data, x.column, x.row};
}

}  // namespace lk::cpu
