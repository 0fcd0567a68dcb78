// A compiled graph: a list of steps, each a parallel loop over tasks, run in one call.
#pragma once
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cpu/arena.h"
#include "cpu/pool.h"
#include "cpu/types.h"

namespace lk::cpu {

// A size of a run: fixed, or one of the run's counts.
enum class Count : int { fixed, rows, out_rows, seqs };

struct Size {
    Count count;
    int64_t maximum;
};

// One run as its steps see it.
struct Run {
    const KernelTable* kernels;
    const int32_t* inputs;
    uint8_t* arena;
    int64_t counts[4];  // by Count; the first is unused
    int n_thread;

    int64_t resolve(const Size& size) const {
        return size.count == Count::fixed ? size.maximum : counts[int(size.count)];
    }
};

// A value: where it lies (a byte offset in the arena, an index in the input block) and its shape, cut for a run.
struct Operand {
    int64_t offset;
    std::vector<Size> shape;

    int64_t first(const Run& run) const { return shape.empty() ? 1 : run.resolve(shape.front()); }
    int64_t last(const Run& run) const { return shape.empty() ? 1 : run.resolve(shape.back()); }
    int64_t elements(const Run& run) const;
    float* floats(const Run& run) const { return reinterpret_cast<float*>(run.arena + offset); }
    const int32_t* ints(const Run& run) const { return run.inputs + offset; }
};

class Step {
  public:
    explicit Step(std::string name) : name(std::move(name)) {}
    virtual ~Step() = default;
    // Throws std::invalid_argument for inputs that point outside of what they index. Called before anything runs.
    virtual void check(const Run&) const {}
    // Prepares the run on one thread; gives the number of tasks.
    virtual int64_t tasks(const Run& run) = 0;
    // One task; `scratch` is private to the thread.
    virtual void work(const Run& run, int64_t task, uint8_t* scratch) = 0;
    virtual int64_t scratch_bytes() const { return 0; }

    const std::string name;
    bool sync = true;  // wait for all earlier steps first
};

class Program {
  public:
    Program(std::shared_ptr<Pool> pool, const KernelTable* kernels, int64_t n_inputs, int64_t arena_bytes);
    void add(std::unique_ptr<Step> step, bool sync);
    int32_t* inputs() { return reinterpret_cast<int32_t*>(inputs_.data()); }
    uint8_t* arena() { return arena_.data(); }
    int64_t arena_bytes() const { return int64_t(arena_.size()); }
    // Throws std::invalid_argument, with the step's name, before anything has been written.
    void run(int64_t rows, int64_t out_rows, int64_t seqs);

  private:
    void work(const Run& run, int thread);

    std::shared_ptr<Pool> pool_;
    const KernelTable* kernels_;
    Arena inputs_, arena_, scratch_;
    int64_t scratch_bytes_ = 0;
    std::vector<std::unique_ptr<Step>> steps_;
    std::vector<int64_t> n_tasks_;
    std::unique_ptr<std::atomic<int64_t>[]> next_;
};

// Throws std::invalid_argument unless all values are in [0, limit).
void check_range(const std::string& what, const int32_t* values, int64_t n, int64_t limit);

}  // namespace lk::cpu
