#include "cpu/pool.h"

#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sched.h>
#endif

namespace lk::cpu {
namespace {

// How often to look before sleeping: about 50 microseconds. Waking a sleeper costs as much.
constexpr int kSpins = 2000;

// The word `round_`: an open round has the number of those who may take part above the number of those who do, the
// caller not counted. All in one word, so that a thread that slept for long either enters the round that is open now,
// as what it is in that one, or none.
constexpr uint32_t kOpen = 1u << 31, kMay = 1u << 15;

uint32_t inside(uint32_t round) {
    return round % kMay;
}
uint32_t may_enter(uint32_t round) {
    return round & kOpen ? (round & ~kOpen) / kMay : 0;
}

void pause_briefly(int i) {
    if (i % 256 == 255) return std::this_thread::yield();  // somebody else may need this core
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("isb");  // waits longer than `yield` does
#endif
}

// The cores on which the calling thread may run; nothing where the system has no such notion.
std::vector<int> allowed() {
    std::vector<int> cores;
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        for (int i = 0; i < CPU_SETSIZE; ++i)
            if (CPU_ISSET(i, &set)) cores.push_back(i);
#endif
    return cores;
}

// Only a wish: a core that has gone is no reason to fail.
void stay_on(const std::vector<int>& cores) {
#if defined(__linux__)
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int core : cores)
        if (core >= 0 && core < CPU_SETSIZE) CPU_SET(core, &set);
    sched_setaffinity(0, sizeof set, &set);
#else
    (void)cores;
#endif
}

}  // namespace

Pool::Pool(int n_thread, std::vector<int> cores) : n_thread_(n_thread), n_active_(n_thread), cores_(std::move(cores)) {
    for (int i = 1; i < n_thread; ++i)
        threads_.emplace_back([this, i] {
            if (!cores_.empty()) stay_on({cores_[size_t(i) % cores_.size()]});
            work(i);
        });
}

Pool::Here::Here(const Pool& pool) {
    if (pool.cores_.empty()) return;
    before_ = allowed();
    stay_on({pool.cores_[0]});
}

Pool::Here::~Here() {
    if (!before_.empty()) stay_on(before_);
}

Pool::~Pool() {
    stop_ = true;
    wake();
    for (auto& thread : threads_) thread.join();
}

void Pool::run(int64_t n, const std::function<void(int64_t, int)>& body) {
    if (n_active_ == 1 || n <= 1) {
        for (int64_t i = 0; i < n; ++i) body(i, 0);
        return;
    }
    body_ = &body;
    n_ = n;
    next_ = 0;
    round_.store(kOpen | uint32_t(n_active_) * kMay, std::memory_order_release);
    wake();
    take(0);
    round_.fetch_and(~kOpen, std::memory_order_acq_rel);
    for (int i = 0; inside(round_.load(std::memory_order_acquire)) > 0; ++i) pause_briefly(i);
    if (failed_) {
        failed_ = false;
        std::rethrow_exception(std::exchange(error_, nullptr));
    }
}

void Pool::wake() {
    ++epoch_;
    epoch_.notify_all();
}

bool Pool::enter(int thread) {
    uint32_t round = round_.load(std::memory_order_relaxed);
    do
        if (uint32_t(thread) >= may_enter(round)) return false;
    while (!round_.compare_exchange_weak(round, round + 1, std::memory_order_acquire, std::memory_order_relaxed));
    return true;
}

void Pool::take(int thread) {
    try {
        for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < n_;) (*body_)(i, thread);
    } catch (...) {  // such as memory that is not to be had: the caller's affair, once nobody works on it any more
        if (!failed_.exchange(true)) error_ = std::current_exception();
        next_ = n_;
    }
}

void Pool::work(int thread) {
    uint32_t seen = 0;
    for (;;) {
        for (int i = 0; i < kSpins && epoch_.load(std::memory_order_acquire) == seen; ++i) pause_briefly(i);
        epoch_.wait(seen, std::memory_order_acquire);
        seen = epoch_.load(std::memory_order_acquire);
        if (stop_) return;
        if (!enter(thread)) continue;
        take(thread);
        round_.fetch_sub(1, std::memory_order_release);
    }
}

}  // namespace lk::cpu
