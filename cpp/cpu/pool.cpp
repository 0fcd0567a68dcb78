#include "cpu/pool.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lk::cpu {
namespace {

// How often to look before sleeping: about 50 microseconds. Waking a sleeper costs as much.
constexpr int kSpins = 2000;

void pause_briefly(int i) {
    if (i % 256 == 255) return std::this_thread::yield();  // somebody else may need this core
#if defined(__x86_64__)
    _mm_pause();
#endif
}

}  // namespace

Pool::Pool(int n_thread) : n_thread_(n_thread) {
    for (int i = 1; i < n_thread; ++i) threads_.emplace_back([this, i] { work(i); });
}

Pool::~Pool() {
    stop_ = true;
    ++epoch_;
    epoch_.notify_all();
    for (auto& thread : threads_) thread.join();
}

void Pool::run(int64_t n, const std::function<void(int64_t, int)>& body) {
    if (n_thread_ == 1 || n <= 1) {
        for (int64_t i = 0; i < n; ++i) body(i, 0);
        return;
    }
    body_ = &body;
    n_ = n;
    next_ = 0;
    busy_ = n_thread_ - 1;
    ++epoch_;
    epoch_.notify_all();
    take(0);
    for (int i = 0; busy_.load(std::memory_order_acquire) > 0; ++i) pause_briefly(i);
}

void Pool::take(int thread) {
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < n_;) (*body_)(i, thread);
}

void Pool::work(int thread) {
    uint32_t seen = 0;
    for (;;) {
        for (int i = 0; i < kSpins && epoch_.load(std::memory_order_acquire) == seen; ++i) pause_briefly(i);
        epoch_.wait(seen, std::memory_order_acquire);
        seen = epoch_.load(std::memory_order_acquire);
        if (stop_) return;
        take(thread);
        busy_.fetch_sub(1, std::memory_order_release);
    }
}

}  // namespace lk::cpu
