// Threads that wait for work together. The caller is one of them.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <thread>
#include <vector>

namespace lk::cpu {

class Pool {
  public:
    // `cores`: where thread i may run, if any are named: cores[i % size].
    explicit Pool(int n_thread, std::vector<int> cores = {});
    ~Pool();
    // How many threads take part, as `use` said last.
    int n_thread() const { return n_active_; }
    int size() const { return n_thread_; }  // all threads
    void use(int n) { n_active_ = n < 1 ? 1 : n > n_thread_ ? n_thread_ : n; }

    // While it lives, the calling thread stays on the first core of the pool.
    class Here {
      public:
        explicit Here(const Pool& pool);
        ~Here();
        Here(const Here&) = delete;
        Here& operator=(const Here&) = delete;

      private:
        std::vector<int> before_;
    };

    // Call body(chunk, thread) for every chunk below n; chunks are taken by whoever is free. Returns when all are done,
    // without waiting for threads that have not begun: where other programs keep the cores busy, that may be long.
    // The first exception that one of them ends with is thrown here; the chunks that nobody has begun are left out.
    void run(int64_t n, const std::function<void(int64_t, int)>& body);

  private:
    void wake();
    bool enter(int thread);
    void work(int thread);
    void take(int thread);

    int n_thread_, n_active_;
    std::vector<int> cores_;
    std::vector<std::thread> threads_;
    const std::function<void(int64_t, int)>* body_ = nullptr;
    std::atomic<int64_t> next_{0};
    int64_t n_ = 0;
    std::atomic<uint32_t> epoch_{0};  // another one with each piece of work
    std::atomic<uint32_t> round_{0};  // whether the work is open, who may take part, and how many are in it: pool.cpp
    std::atomic<bool> stop_{false}, failed_{false};
    std::exception_ptr error_;  // of the one that failed first
};

}  // namespace lk::cpu
