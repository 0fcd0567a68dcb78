// The attention step of a program: which tiles of rows there are, and who computes them.
#include <algorithm>
#include <map>

#include "cpu/program.h"

namespace lk::cpu {

void Program::check_attention(const Step& step) const {
    const int32_t *positions = ints(step, 0), *sequences = ints(step, 1), *cells = ints(step, 2),
                  *tables = ints(step, 3);
    const int64_t n = n_rows(step.in[0]);
    if (step.layer < 0) {
        check_range(step, "sequence", sequences, n, INT32_MAX);
        check_range(step, "position", positions, n, INT32_MAX);
        std::map<int32_t, int32_t> next;  // position of each sequence
        for (int64_t r = 0; r < n; ++r) {
            const auto [at, is_first] = next.emplace(sequences[r], positions[r]);
            if (positions[r] != at->second) fail(step, "the positions of a sequence must ascend by one");
            at->second += 1;
        }
        return;
    }
    check_range(step, "sequence", sequences, n, std::max<int64_t>(max_seqs_, 1));
    check_range(step, "position", positions, n, blocks_per_seq_ * kv_->block_size);
    check_range(step, "cell", cells, n, kv_->n_cell());
    for (int64_t r = 0; r < n; ++r)
        if (r + 1 == n || sequences[r + 1] != sequences[r])
            check_range(step, "block", tables + sequences[r] * blocks_per_seq_, positions[r] / kv_->block_size + 1,
                        kv_->n_block);
}

// Rows of one sequence that share their keys, and the partials of keys that any of them sees.
struct Program::AttendTile {
    const std::vector<int32_t>* rows;
    int64_t from, count;
    int32_t sequence, split_begin, split_end;
    int64_t parts;  // where their results begin if partials are computed apart, in floats for each KV head
};

void Program::attention(const Step& step) {
    if (step.layer < 0) return attend_rows(step);
    const Value &q = step.in[0], &k = step.in[1], &v = step.in[2];
    const int32_t *positions = ints(step, 0), *sequences = ints(step, 1), *cells = ints(step, 2),
                  *tables = ints(step, 3);
    const int64_t n = n_rows(q), layer = step.layer, window = step.window;
    if (n == 0) return;
    for_rows(n, k.width + v.width, [&](int64_t r) {
        kernels_.kv_write(kv_->layers[size_t(layer)], cells[r], at(k) + r * k.width, at(v) + r * v.width);
    });
    std::map<int32_t, std::vector<int32_t>> of_sequence;
    for (int64_t r = 0; r < n; ++r) of_sequence[sequences[r]].push_back(int32_t(r));
    const int64_t n_head_kv = k.n_head, group = q.n_head / k.n_head, dim_k = k.width / k.n_head,
                  dim_v = v.width / v.n_head, most = std::max<int64_t>(1, kAttendRows / group);
    const auto end_of = [&](const std::vector<int32_t>& rows, int64_t i) { return positions[rows[size_t(i)]] + 1; };
    const auto begin_of = [&](int32_t end) { return window > 0 ? std::max<int32_t>(0, end - int32_t(window)) : 0; };
    std::vector<AttendTile> tiles;
    int32_t longest = 0;
    int64_t n_part = 0;
    for (const auto& [sequence, rows] : of_sequence)
        for (int64_t from = 0; from < int64_t(rows.size()); from += most) {
            AttendTile tile{&rows, from,  std::min<int64_t>(most, int64_t(rows.size()) - from), sequence, INT32_MAX,
                            0,     n_part};
            for (int64_t i = from; i < from + tile.count; ++i) {
                const int32_t end = end_of(rows, i);
                tile.split_begin = std::min(tile.split_begin, begin_of(end) / kSplit);
                tile.split_end = std::max(tile.split_end, (end + kSplit - 1) / kSplit);
            }
            longest = std::max(longest, tile.split_end - tile.split_begin);
            n_part += (tile.split_end - tile.split_begin) * tile.count * group * kernels_.attend_part(dim_v);
            tiles.push_back(tile);
        }
    // With few tasks the partials of each are computed apart; they are merged in the same order either way.
    const int64_t n_task = int64_t(tiles.size()) * n_head_kv;
    const bool serial = n * q.width * std::max<int64_t>(sizes_.longest, 1) < kSerialCost;
    const int64_t wanted = serial ? 1 : kTasksPerThread * pool_->n_thread();
    const bool apart = n_task < wanted && n_part * n_head_kv <= kMostParts;
    const int32_t pieces = apart ? int32_t(std::min<int64_t>(longest, (wanted + n_task - 1) / n_task)) : 1;
    if (pieces > 1) parts_.resize(std::max(parts_.size(), size_t(n_part * n_head_kv)));

    const size_t scratch = size_t(kernels_.attend_scratch(most * group, dim_k, dim_v)) * 4;
    const auto with_task = [&](int64_t i, int thread, auto body) {
        auto& memory = scratch_[size_t(thread)];
        if (memory.size() < scratch) memory.resize(scratch);
        const AttendTile& tile = tiles[size_t(i / n_head_kv)];
        const float* queries[kAttendRows];
        float* outputs[kAttendRows];
        int32_t first[kAttendRows], last[kAttendRows];
        for (int64_t j = 0; j < tile.count; ++j) {
            const int32_t row = (*tile.rows)[size_t(tile.from + j)];
            queries[j] = at(q) + row * q.width;
            outputs[j] = at(step.out()) + row * step.out().width;
            last[j] = end_of(*tile.rows, tile.from + j);
            first[j] = begin_of(last[j]);
        }
        AttendTask a{};
        a.keys = {&kv_->layers[size_t(layer)], tables + tile.sequence * blocks_per_seq_, int32_t(kv_->block_size)};
        a.cap = step.cap, a.slopes = step.slopes.empty() ? nullptr : step.slopes.data();
        a.sinks = step.weight ? step.weight->vector : nullptr;
        a.n_rows = int(tile.count), a.group = int(group), a.n_head = int(q.n_head), a.n_head_kv = int(n_head_kv),
        a.head_kv = int(i % n_head_kv);
        a.dim_k = int(dim_k), a.dim_v = int(dim_v), a.scale = step.factor;
        a.q = queries, a.out = outputs, a.first = first, a.last = last;
        a.split_begin = tile.split_begin, a.split_end = tile.split_end, a.first_part = tile.split_begin;
        if (pieces > 1)
            a.parts = &parts_[size_t(tile.parts * n_head_kv + i % n_head_kv * (tile.split_end - tile.split_begin) *
                                                                  tile.count * group * kernels_.attend_part(dim_v))];
        body(a, reinterpret_cast<float*>(memory.data()));
    };
    const auto run = [&](int64_t n_chunk, const std::function<void(int64_t, int)>& body) {
        if (serial)
            for (int64_t i = 0; i < n_chunk; ++i) body(i, 0);
        else
            pool_->run(n_chunk, body);
    };
    run(n_task * pieces, [&](int64_t i, int thread) {
        with_task(i / pieces, thread, [&](AttendTask& a, float* memory) {
            const int32_t count = a.split_end - a.split_begin, piece = int32_t(i % pieces), begin = a.split_begin;
            a.split_begin = begin + count * piece / pieces, a.split_end = begin + count * (piece + 1) / pieces;
            if (a.split_begin < a.split_end) kernels_.attend(a, memory);
        });
    });
    if (pieces > 1)
        run(n_task, [&](int64_t i, int thread) {
            with_task(i, thread, [&](AttendTask& a, float* memory) { kernels_.attend_merge(a, memory); });
        });
}

}  // namespace lk::cpu
