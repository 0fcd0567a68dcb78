// How fast this machine is at best, and how near to that a kernel comes.
#pragma once

#include <vector>

#include "cpu/pack.h"
#include "cpu/pool.h"
#include "cpu/types.h"

namespace lk::cpu {

// All threads of the pool together: bytes read from memory a second.
double read_bandwidth(const KernelTable& kernels, Pool& pool);
// All threads together: multiplications a second with operands in this form, from registers.
double multiply_rate(const KernelTable& kernels, Pool& pool, ActForm form);

// One product y = x W^T outside of a program, its rows prepared as a program does it.
class LinearAlone {
  public:
    LinearAlone(const KernelTable& kernels, const WeightView& w, const float* x, int64_t n_row);
    LinearAlone(const LinearAlone&) = delete;
    LinearAlone& operator=(const LinearAlone&) = delete;
    void run() const;

    std::vector<float> y;  // (n_row, n_out)

  private:
    const KernelTable& kernels_;
    std::vector<float> scales_;
    std::vector<int32_t> sums_, starts_;
    std::vector<uint8_t> values_;
    LinearTask task_{};
};

// One thread: seconds for `passes` products of a matrix with n_row rows of activations.
double linear_seconds(const KernelTable& kernels, const Weight& weight, int64_t n_row, int64_t passes);

}  // namespace lk::cpu
