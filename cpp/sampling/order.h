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

// A logit that at least k of a row reach, and not many more: what lies below it is not among the k likeliest. The row
// has at least k, and no NaN.
float reached_by(const float* x, int32_t n, size_t k);

}  // namespace lk::sampling
