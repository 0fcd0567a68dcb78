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
constexpr int64_t kScan = 2, kSum = 3, kSoftmax = 6, kSort = 10, kLog = 12;

// What the samplers of this thread have done, in units of about 20 nanoseconds, as those of grammars are.
int64_t work_of_thread();

// Counts work; that with short lists too.
void spend(int64_t units);
inline void spend(size_t n, int64_t each) {
    spend(int64_t(n) * each / 16);
}

// Counts work that is about to begin. Throws Postponed where the list is long, and an `Allowance` is used up.
void begin_work(size_t n, int64_t each);

// Whether `begin_work` would throw for so many.
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
