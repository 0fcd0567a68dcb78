// Threads that stay, the caller being the first of them.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace lk::cpu {

// Spins for a moment, then gives its time slice away, then sleeps: right also when there are more threads than cores.
class Barrier {
  public:
    explicit Barrier(int n) : n_(n) {}
    void wait();

  private:
    const int n_;
    std::atomic<int> arrived_{0};
    std::atomic<uint32_t> round_{0};
};

class Pool {
  public:
    explicit Pool(int n_thread);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int size() const { return n_thread_; }
    // Calls work(thread) on every thread and returns when all are done. `work` must not throw.
    void run(const std::function<void(int)>& work);
    // Between the threads of one run.
    void barrier() { inner_.wait(); }

  private:
    void serve(int thread);

    const int n_thread_;
    Barrier inner_, done_;
    const std::function<void(int)>* work_ = nullptr;
    std::atomic<uint32_t> started_{0};
    std::atomic<bool> stopping_{false};
    std::vector<std::thread> threads_;
};

}  // namespace lk::cpu
