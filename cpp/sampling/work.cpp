#include "sampling/work.h"

namespace lk::sampling {
namespace {

constexpr int64_t kUnbounded = INT64_MAX;

thread_local int64_t thread_work = 0;
thread_local int64_t allowed = kUnbounded;

}  // namespace

int64_t work_of_thread() {
    return thread_work;
}

void count_units(int64_t units) {
    thread_work += units;
}

bool would_postpone(size_t n) {
    return n >= kLong && thread_work >= allowed;
}

void begin_or_postpone(size_t n, int64_t cost) {
    if (would_postpone(n)) throw Postponed();
    if (n >= kLong) allowed = kUnbounded;  // what is begun is finished
    count(n, cost);
}

Allowance::Allowance(int64_t until) {
    allowed = until;
}

Allowance::~Allowance() {
    allowed = kUnbounded;
}

}  // namespace lk::sampling
