// How fast this machine is at best, and how near to that a kernel comes.
#pragma once

#include <memory>

#include "cpu/pack.h"
#include "cpu/pool.h"
#include "cpu/types.h"

namespace lk::cpu {

// All threads of the pool together: bytes read from memory a second.
double read_bandwidth(const KernelTable& kernels, Pool& pool);
// All threads together: multiplications a second with operands in this form, from registers.
double multiply_rate(const KernelTable& kernels, Pool& pool, ActForm form);
// One thread: seconds for `passes` products of a matrix with n_row rows of activations.
double linear_seconds(const KernelTable& kernels, const Weight& weight, int64_t n_row, int64_t passes);

}  // namespace lk::cpu
