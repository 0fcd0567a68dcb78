// How much samplers do over long lists, so that the rows of a step together do not hold up anybody.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>

namespace lk::sampling {

// Thrown where costly work over a row would begin though enough was done for others: the row waits, and loses nothing.
struct Postponed : std::runtime_error {
    Postponed() : std::runtime_error("the row waits for the next step") {}
};

constexpr size_t kLong = 8192;  // candidates from which on what is done with each of them counts as costly

// What is done with each candidate, in sixteenths of a unit of about 20 nanoseconds: measured, and rounded up.
constexpr int64_t kPartsOfUnit = 16;
constexpr int64_t kScan = 2, kSum = 3, kSoftmax = 6, kSort = 10, kLog = 12;

// What the samplers of this thread have done, in units of about 20 nanoseconds, as those of grammars are.
int64_t work_of_thread();

// Counts work in those units.
void count_units(int64_t units);

// Counts what is done with `n` candidates, be they few or many; `cost` is one of those above.
inline void count(size_t n, int64_t cost) {
    count_units(int64_t(n) * cost / kPartsOfUnit);
}

// Counts work that is about to begin, or throws Postponed where the list is long and the `Allowance` used up. What is
// begun is finished: once work with a long list has begun, the allowance does not hold for the rest of the row.
void begin_or_postpone(size_t n, int64_t cost);

// Whether `begin_or_postpone` would throw for so many.
bool would_postpone(size_t n);

// While it lives, a row whose costly work would begin once the thread has done `until` in all is postponed. What is
// begun by then is finished, or a row that takes more than there is would never be done.
class Allowance {
  public:
    explicit Allowance(int64_t until);
    ~Allowance();
    Allowance(const Allowance&) = delete;
    Allowance& operator=(const Allowance&) = delete;
};

}  // namespace lk::sampling
