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

void begin_work(size_t n, int64_t each) {
    if (n >= kLong) {
        if (thread_work >= allowed) throw Postponed();
        allowed = INT64_MAX;
    }
    spend(n, each);
}

Allowance::Allowance(int64_t until) {
    allowed = until;
}

Allowance::~Allowance() {
    allowed = INT64_MAX;
}

}  // namespace lk::sampling
