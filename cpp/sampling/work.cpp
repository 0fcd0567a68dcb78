#include "sampling/work.h"

namespace lk::sampling {
namespace {

thread_local int64_t thread_work = 0;
thread_local int64_t allowed = INT64_MAX;

}  // namespace

int64_t work_of_thread() {
    return thread_work;
}

void spend(int64_t units) {
    thread_work += units;
}

bool would_postpone(size_t n) {
    return n >= kLong && thread_work >= allowed;
}

void begin_work(size_t n, int64_t each) {
    if (would_postpone(n)) throw Postponed();
    if (n >= kLong) allowed = INT64_MAX;
    spend(n, each);
}

Allowance::Allowance(int64_t until) {
    allowed = until;
}

Allowance::~Allowance() {
    allowed = INT64_MAX;
}

}  // namespace lk::sampling
