#include "cpu/adapters.h"

#include <algorithm>
#include <cstring>

namespace lk::cpu {
namespace {

constexpr int64_t kSerialCost = 1 << 15;  // multiplications below which waking threads costs more than it gives

int64_t panels_of(int64_t n) {
    return (n + kLanes - 1) / kLanes;
}

// Panels [begin, end) as a weight of their own.
WeightView some_panels(const WeightView& w, int64_t begin, int64_t end) {
    WeightView part = w;
    part.data = w.data + begin * w.panel_bytes;
    part.n_out = std::min(w.n_out, end * kLanes) - begin * kLanes;
    return part;
}

// Values [from, from + n) along k of a float weight.
WeightView some_inputs(const WeightView& w, int64_t from, int64_t n) {
    WeightView part = w;
    part.data = w.data + from * kLanes * (w.kind == WeightKind::f32 ? 4 : 2);
    part.n_in = n;
    return part;
}

int64_t bytes_of(const WeightView& w) {
    return w.panel_bytes * panels_of(w.n_out);
}

void prefetch(const WeightView& w) {
    for (int64_t i = 0; i < bytes_of(w); i += 64) __builtin_prefetch(w.data + i);
}

}  // namespace

void AdapterTable::set(int32_t slot, const std::map<std::string, AdapterSource>& sources) {
    Slot made;
    int64_t total = 0, at = 0;
    for (const auto& [name, source] : sources)
        if (source.a) total += bytes_of(source.a->view) + bytes_of(source.b->view);
    made.memory = std::make_unique<Arena>(size_t(std::max<int64_t>(total, 64)));
    const auto moved = [&](WeightView view) {
        std::memcpy(made.memory->data() + at, view.data, size_t(bytes_of(view)));
        view.data = made.memory->data() + at;
        at += bytes_of(view);
        return view;
    };
    for (const auto& [name, source] : sources) {
        Adapter& adapter = made.adapters[name];
        adapter.scale = source.scale;
        if (source.a)
            adapter.a = moved(source.a->view), adapter.b = moved(source.b->view);
        else
            adapter.delta.assign(source.b->vector, source.b->vector + source.b->view.n_out * source.b->view.n_in);
    }
    slots_.at(size_t(slot)) = std::move(made);
}

std::vector<AdapterRun> AdapterTable::runs(const int32_t* slots, int64_t n, const std::string& target) const {
    std::vector<AdapterRun> found;
    for (int64_t from = 0, to; slots && from < n; from = to) {
        for (to = from + 1; to < n && slots[to] == slots[from];) ++to;
        if (slots[from] <= 0) continue;
        const auto& adapters = slots_[size_t(slots[from])].adapters;
        const auto adapter = adapters.find(target);
        if (adapter != adapters.end()) found.push_back({from, to - from, &adapter->second});
    }
    return found;
}

size_t LinearDelta::scratch_bytes(const KernelTable& kernels, const std::vector<AdapterRun>& runs) {
    int64_t longest = kSegment;
    for (const AdapterRun& run : runs) longest = std::max(longest, run.adapter->rank());
    return runs.empty() ? 0 : kBytes + size_t(longest * kernels.float_tile) * 4 + 256;
}

void LinearDelta::multiply(const KernelTable& kernels, Pool& pool, std::vector<std::vector<uint8_t>>& scratch,
                           std::vector<AdapterRun> runs, const float* x, int64_t ldx, int64_t n_rows) {
    runs_ = std::move(runs);
    if (runs_.empty()) return;
    const int64_t n_in = runs_[0].adapter->a.n_in, n_segment = (n_in + kSegment - 1) / kSegment;
    width_ = 0;
    for (const AdapterRun& run : runs_) width_ = std::max(width_, panels_of(run.adapter->rank()) * kLanes);
    middle_.resize(size_t(n_segment * n_rows * width_));
    struct Task {
        const WeightView* a;
        int64_t row, count, panel;
    };
    std::vector<Task> tasks;
    int64_t cost = 0;
    for (const AdapterRun& run : runs_) {
        const WeightView& a = run.adapter->a;
        cost += run.count * a.n_in * a.n_out;
        for (int64_t row = run.from; row < run.from + run.count; row += kRows)
            for (int64_t panel = 0; panel < panels_of(a.n_out); panel += kPanels)
                tasks.push_back({&a, row, std::min(kRows, run.from + run.count - row), panel});
    }
    const auto task = [&](int64_t i, int thread) {
        const Task& t = tasks[size_t(i / n_segment)];
        const int64_t segment = i % n_segment, from = segment * kSegment,
                      end = std::min(panels_of(t.a->n_out), t.panel + kPanels);
        const WeightView part = some_inputs(some_panels(*t.a, t.panel, end), from, std::min(kSegment, n_in - from));
        float* out = &middle_[size_t((segment * n_rows + t.row) * width_ + t.panel * kLanes)];
        kernels.linear_rows(part, x + t.row * ldx + from, ldx, t.count, 0, end - t.panel, out, width_,
                            scratch[size_t(thread)].data());
    };
    const int64_t n_task = int64_t(tasks.size()) * n_segment;
    if (cost < kSerialCost)
        for (int64_t i = 0; i < n_task; ++i) task(i, 0);
    else
        pool.run(n_task, task);
    for (const AdapterRun& run : runs_) {
        float* sum = &middle_[size_t(run.from * width_)];
        const int64_t n = run.count * width_;
        for (int64_t segment = 1; segment < n_segment; ++segment)
            kernels.add(sum, sum + segment * n_rows * width_, n, sum);
        if (run.adapter->scale != 1.0f) kernels.scale(sum, run.adapter->scale, n, sum);
    }
}

void LinearDelta::fetch(int64_t begin, int64_t end) const {
    for (const AdapterRun& run : runs_) prefetch(some_panels(run.adapter->b, begin, end));
}

void LinearDelta::add(const KernelTable& kernels, int64_t begin, int64_t end, float* y, int64_t ldy,
                      uint8_t* scratch) const {
    float* delta = reinterpret_cast<float*>(scratch);
    for (const AdapterRun& run : runs_) {
        const WeightView part = some_panels(run.adapter->b, begin, end);
        for (int64_t row = run.from; row < run.from + run.count; row += kRows) {
            const int64_t count = std::min(kRows, run.from + run.count - row), ld = kPanels * kLanes;
            kernels.linear_rows(part, &middle_[size_t(row * width_)], width_, count, 0, end - begin, delta, ld,
                                scratch + kBytes);
            for (int64_t i = 0; i < count; ++i) {
                float* to = y + (row + i) * ldy + begin * kLanes;
                kernels.add(to, delta + i * ld, part.n_out, to);
            }
        }
    }
}

void unpack_rows(const KernelTable& kernels, const std::vector<AdapterRun>& runs) {
    for (const AdapterRun& run : runs) {
        const WeightView& a = run.adapter->a;
        if (!run.adapter->rows.empty()) continue;
        run.adapter->rows.resize(size_t(a.n_out * a.n_in));
        for (int64_t r = 0; r < a.n_out; ++r) kernels.weight_row(a, r, &run.adapter->rows[size_t(r * a.n_in)]);
    }
}

void apply_embedding(const KernelTable& kernels, const Adapter& adapter, int64_t token, int64_t n_embd, float* y,
                     std::vector<float>& middle) {
    middle.resize(size_t(adapter.rank()));
    kernels.weight_row(adapter.b, token, middle.data());
    for (int64_t r = 0; r < adapter.rank(); ++r)
        kernels.axpy(adapter.scale * middle[size_t(r)], &adapter.rows[size_t(r * n_embd)], n_embd, y);
}

}  // namespace lk::cpu
