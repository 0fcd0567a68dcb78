// softmax(scale q k^T) v over partials of 256 keys at fixed places, merged in order (the running maximum of Milakov
// and Gimelshein 2018, arXiv:1805.02867). A row's bits depend only on its query and on the keys that it sees.
// Included by units of kernels, inside their anonymous namespace.

LK_INLINE int64_t cell_of(const Keys& keys, int64_t position) {
    return int64_t(keys.blocks[position / keys.block_size]) * keys.block_size + position % keys.block_size;
}

// Keys [begin, begin + n) of one KV head to float32: k is [n/16][dim_k][16], v is [n][dim_v].
LK_INLINE void gather(const AttendTask& t, int64_t begin, int64_t n, float* k, float* v) {
    const Keys& keys = t.keys;
    const int64_t from_k = int64_t(t.head_kv) * t.dim_k, from_v = int64_t(t.head_kv) * t.dim_v;
    for (int64_t i = 0; i < n; i += kLanes, k += kLanes * t.dim_k) {
        const int64_t m = n - i < kLanes ? n - i : kLanes;
        if (keys.layer && keys.block_size % kLanes == 0) {
            read_k_group(*keys.layer, cell_of(keys, begin + i), from_k, t.dim_k, k);
            continue;
        }
        for (int64_t lane = 0; lane < kLanes; ++lane) {
            const int64_t at = begin + i + (lane < m ? lane : 0);
            for (int64_t d = 0; d < t.dim_k; ++d)
                k[d * kLanes + lane] = keys.layer
                                           ? k_value(*keys.layer, cell_of(keys, at), from_k + d)
                                           : keys.k[(int64_t(keys.rows[at]) * t.n_head_kv + t.head_kv) * t.dim_k + d];
        }
    }
    for (int64_t i = 0; i < n; ++i, v += t.dim_v) {
        if (keys.layer)
            read_v_row(*keys.layer, cell_of(keys, begin + i), from_v, t.dim_v, v);
        else
            for (int64_t d = 0; d < t.dim_v; ++d)
                v[d] = keys.v[(int64_t(keys.rows[begin + i]) * t.n_head_kv + t.head_kv) * t.dim_v + d];
    }
}

// Scores of one query with kGroups * 16 keys.
template <int kGroups>
LK_INLINE void score(const float* q, const float* k, int dim, Floats factor, float* s) {
    Floats acc[kGroups];
    for (int g = 0; g < kGroups; ++g) acc[g] = splat(0.0f);
    for (int d = 0; d < dim; ++d) {
        const Floats x = splat(q[d]);
#pragma GCC unroll 4
        for (int g = 0; g < kGroups; ++g) acc[g] = fma(x, load(k + (int64_t(g) * dim + d) * kLanes), acc[g]);
    }
    for (int g = 0; g < kGroups; ++g) store(s + g * kLanes, acc[g] * factor);
}

// out += sum of p[i] * v[i] over keys [from, to), kParts16 * 16 dimensions from v on.
template <int kRegisters>
LK_INLINE void accumulate(const float* p, const float* v, int dim, int from, int to, float* out) {
    Floats acc[kRegisters];
    for (int r = 0; r < kRegisters; ++r) acc[r] = load(out + r * kLanes);
    for (int i = from; i < to; ++i) {
        const Floats x = splat(p[i]);
#pragma GCC unroll 4
        for (int r = 0; r < kRegisters; ++r) acc[r] = fma(x, load(v + int64_t(i) * dim + r * kLanes), acc[r]);
    }
    for (int r = 0; r < kRegisters; ++r) store(out + r * kLanes, acc[r]);
}

LK_INLINE void weigh(const float* p, const float* v, int dim, int from, int to, float* out) {
    int d = 0;
    for (; d + 4 * kLanes <= dim; d += 4 * kLanes) accumulate<4>(p, v + d, dim, from, to, out + d);
    for (; d + kLanes <= dim; d += kLanes) accumulate<1>(p, v + d, dim, from, to, out + d);
    for (; d < dim; ++d) {
        float total = out[d];
        for (int i = from; i < to; ++i) total += p[i] * v[int64_t(i) * dim + d];
        out[d] = total;
    }
}

// State of one query head: maximum, sum of exponentials, weighted values.
struct Running {
    float top, total;
    float* values;
};

// Take in keys [from, to) of the partial whose keys are in k and v. `s` has room for 256 scores, `part` for dim_v.
LK_INLINE void partial(const AttendTask& t, const float* q, const float* k, const float* v, int from, int to, float* s,
                       float* part, Running& run) {
    const Floats factor = splat(t.scale);
    int i = from / kLanes * kLanes;
    for (; i + 4 * kLanes <= to; i += 4 * kLanes) score<4>(q, k + int64_t(i) * t.dim_k, t.dim_k, factor, s + i);
    for (; i < to; i += kLanes) score<1>(q, k + int64_t(i) * t.dim_k, t.dim_k, factor, s + i);
    const float top = maximum_of(s + from, to - from);
    // Lane i of the sum holds keys i, i + 16, ... counted from the partial's start, whatever `from` is.
    const int first = from / kLanes * kLanes;
    for (int j = first; j < from; ++j) s[j] = -1e30f;
    exp_scale(s + first, top, 1.0f, to - first, s + first);
    for (int j = first; j < from; ++j) s[j] = 0.0f;
    Floats sums = splat(0.0f);
    each(to - first, [&](int64_t j, int64_t m) LK_LAMBDA { sums = sums + take(s + first + j, m); });
    const float total = sum(sums);
    for (int d = 0; d < t.dim_v; ++d) part[d] = 0.0f;
    weigh(s, v, t.dim_v, from, to, part);

    const float highest = top > run.top ? top : run.top;
    const float behind[2] = {run.top - highest, top - highest};
    float weights[kLanes];
    store(weights, exp(load_some(behind, 2)));
    const float old_weight = run.total == 0.0f ? 0.0f : weights[0], new_weight = weights[1];
    scale(run.values, old_weight, t.dim_v, run.values);
    axpy(new_weight, part, t.dim_v, run.values);
    run.total = run.total * old_weight + total * new_weight;
    run.top = highest;
}

// Scratch, in floats: 256 (dim_k + dim_v + 1) + dim_v + n_rows * group * (dim_v + 2).
void attend(const AttendTask& t, float* scratch) {
    float *k = scratch, *v = k + kSplit * t.dim_k, *s = v + kSplit * t.dim_v, *part = s + kSplit;
    float *values = part + t.dim_v, *tops = values + t.n_rows * t.group * t.dim_v, *totals = tops + t.n_rows * t.group;
    int32_t first = t.first[0], last = t.last[0];
    for (int r = 0; r < t.n_rows; ++r) {
        first = t.first[r] < first ? t.first[r] : first;
        last = t.last[r] > last ? t.last[r] : last;
    }
    for (int i = 0; i < t.n_rows * t.group; ++i) tops[i] = -1e30f, totals[i] = 0.0f;
    for (int i = 0; i < t.n_rows * t.group * t.dim_v; ++i) values[i] = 0.0f;
    for (int32_t begin = first / kSplit * kSplit; begin < last; begin += kSplit) {
        const int32_t n = last - begin < kSplit ? last - begin : kSplit;
        gather(t, begin, n, k, v);
        for (int r = 0; r < t.n_rows; ++r) {
            const int from = t.first[r] > begin ? t.first[r] - begin : 0;
            const int to = t.last[r] - begin < n ? t.last[r] - begin : n;
            for (int h = 0; h < t.group && from < to; ++h) {
                const int i = r * t.group + h;
                Running run = {tops[i], totals[i], values + i * t.dim_v};
                partial(t, t.q[r] + int64_t(t.head_kv * t.group + h) * t.dim_k, k, v, from, to, s, part, run);
                tops[i] = run.top, totals[i] = run.total;
            }
        }
    }
    for (int r = 0; r < t.n_rows; ++r)
        for (int h = 0; h < t.group; ++h) {
            const int i = r * t.group + h;
            scale(values + i * t.dim_v, 1.0f / totals[i], t.dim_v,
                  t.out[r] + int64_t(t.head_kv * t.group + h) * t.dim_v);
        }
}
