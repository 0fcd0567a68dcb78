// What a program takes beside its arena while it runs, told from its steps before anything is allocated.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cpu/program.h"

namespace lk::cpu {

// A weight of which only the form is there, for steps that are looked at and never run. `packed`: or left in the file.
std::shared_ptr<Weight> planned_weight(int type, int64_t n_out, int64_t n_in, bool is_vector, bool packed);

// Bytes of all that `Program` keeps for its steps at their largest sizes: activations in the forms of the weights,
// memory of the threads, partials of attention, pairs of rows and experts. Adapters come on top of it.
int64_t workspace_bytes(const KernelTable& kernels, const std::vector<Step>& steps,
                        const std::vector<int64_t>& max_dims, int64_t max_positions, int64_t n_thread);

}  // namespace lk::cpu
