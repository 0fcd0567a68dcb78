// The attention step of a program: which tiles of rows there are, and who computes them.
#include <algorithm>
#include <map>

#include "cpu/program.h"

namespace lk::cpu {
namespace {

constexpr int64_t kAttendRows = 16;  // query rows that share one reading of the keys

}  // namespace

void Program::check_attention(const Step& step) const {
    const int32_t *positions = ints(step, 0), *sequences = ints(step, 1), *cells = ints(step, 2),
                  *tables = ints(step, 3);
    check_range(step, "sequence", sequences, sizes_.rows, std::max<int64_t>(sizes_.seqs, 1));
    if (step.numbers[1] < 0) return check_range(step, "position", positions, sizes_.rows, INT32_MAX);
    check_range(step, "position", positions, sizes_.rows, blocks_per_seq_ * kv_->block_size);
    check_range(step, "cell", cells, sizes_.rows, kv_->n_cell());
    for (int64_t r = 0; r < sizes_.rows; ++r)
        if (r + 1 == sizes_.rows || sequences[r + 1] != sequences[r])
            check_range(step, "block", tables + sequences[r] * blocks_per_seq_, positions[r] / kv_->block_size + 1,
                        kv_->n_block);
}

void Program::attention(const Step& step) {
    const Value &q = step.in[0], &k = step.in[1], &v = step.in[2];
    const int32_t *positions = ints(step, 0), *sequences = ints(step, 1), *cells = ints(step, 2),
                  *tables = ints(step, 3);
    const int64_t n = sizes_.rows, layer = int64_t(step.numbers[1]), window = int64_t(step.numbers[2]);
    const bool cached = layer >= 0;
    if (cached)
        for_rows(n, k.width + v.width, [&](int64_t r) {
            kernels_.kv_write(kv_->layers[size_t(layer)], cells[r], at(k) + r * k.width, at(v) + r * v.width);
        });
    // Rows of one sequence, in order; without a cache they are each other's keys.
    std::map<int32_t, std::vector<int32_t>> of_sequence;
    for (int64_t r = 0; r < n; ++r) of_sequence[sequences[r]].push_back(int32_t(r));
    struct Tile {
        const std::vector<int32_t>* rows;
        int64_t from, count;
        int32_t sequence;
    };
    std::vector<Tile> tiles;
    for (const auto& [sequence, rows] : of_sequence)
        for (int64_t from = 0; from < int64_t(rows.size()); from += kAttendRows)
            tiles.push_back({&rows, from, std::min<int64_t>(kAttendRows, int64_t(rows.size()) - from), sequence});
    const int64_t n_head_kv = k.n_head, dim_k = k.width / k.n_head, dim_v = v.width / v.n_head,
                  group = q.n_head / k.n_head;
    const size_t scratch = size_t(kSplit * (dim_k + dim_v + 1) + dim_v + kAttendRows * group * (dim_v + 2) + 64) * 4;
    const auto task = [&](int64_t i, int thread) {
        auto& memory = scratch_[size_t(thread)];
        if (memory.size() < scratch) memory.resize(scratch);
        const Tile& tile = tiles[size_t(i / n_head_kv)];
        const float* queries[kAttendRows];
        float* outputs[kAttendRows];
        int32_t first[kAttendRows], last[kAttendRows];
        for (int64_t j = 0; j < tile.count; ++j) {
            const int32_t row = (*tile.rows)[size_t(tile.from + j)];
            queries[j] = at(q) + row * q.width;
            outputs[j] = at(step.out) + row * step.out.width;
            last[j] = cached ? positions[row] + 1 : int32_t(tile.from + j) + 1;
            first[j] = window > 0 ? std::max<int32_t>(0, last[j] - int32_t(window)) : 0;
        }
        AttendTask a{};
        a.keys = {cached ? &kv_->layers[size_t(layer)] : nullptr,
                  cached ? tables + tile.sequence * blocks_per_seq_ : nullptr,
                  cached ? int32_t(kv_->block_size) : 0,
                  tile.rows->data(),
                  at(k),
                  at(v)};
        a.n_rows = int(tile.count), a.group = int(group), a.n_head = int(q.n_head), a.n_head_kv = int(n_head_kv),
        a.head_kv = int(i % n_head_kv);
        a.dim_k = int(dim_k), a.dim_v = int(dim_v), a.scale = float(step.numbers[0]);
        a.q = queries, a.out = outputs, a.first = first, a.last = last;
        kernels_.attend(a, reinterpret_cast<float*>(memory.data()));
    };
    const int64_t n_task = int64_t(tiles.size()) * n_head_kv;
    if (n * q.width * std::max<int64_t>(sizes_.longest, 1) < kSerialCost)
        for (int64_t i = 0; i < n_task; ++i) task(i, 0);
    else
        pool_->run(n_task, task);
}

}  // namespace lk::cpu
