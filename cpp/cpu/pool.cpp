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
    start(0);
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
    busy_ = n_active_ - 1;
    start(uint32_t(n_active_));
    take(0);
    for (int i = 0; busy_.load(std::memory_order_acquire) > 0; ++i) pause_briefly(i);
    if (failed_) {
        failed_ = false;
        std::rethrow_exception(std::exchange(error_, nullptr));
    }
}

// A thread learns from the epoch itself whether it takes part, or one that slept would believe a later word.
void Pool::start(uint32_t n_thread) {
    epoch_ = (epoch_ / kCount + 1) * kCount + n_thread;
    epoch_.notify_all();
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
        if (uint32_t(thread) >= seen % kCount) continue;
        take(thread);
        busy_.fetch_sub(1, std::memory_order_release);
    }
}

}  // namespace lk::cpu
