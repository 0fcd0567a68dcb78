// Candidates by falling logit, ties by rising id: the one order of all samplers, for lists of any length.
#pragma once

#include <cstddef>
#include <vector>

#include "sampling/candidates.h"

namespace lk::sampling {

// Sorts a list. Throws LogitsError where a logit is NaN, which has no place in the order.
void sort_likeliest(std::vector<Candidate>& list);

// The k likeliest of a list, sorted; drops the others.
void keep_likeliest(std::vector<Candidate>& list, size_t k);

}  // namespace lk::sampling
