// softmax(scale q k^T) v over partials of kSplit keys at fixed places, merged in order (the running maximum of Milakov
// and Gimelshein 2018, arXiv:1805.02867). A row here is one query head of one position; all rows of a task share the
// keys of one KV head, which are read once for all of them. A row's bits depend only on its query and on the keys that
// it sees: every score is one chain over the dimensions and every output one chain over the keys of a partial, whatever
// the tile of rows; a key that a row does not see has weight 0, and adding 0 changes nothing.
// Included by units of kernels, inside their anonymous namespace.

// Accumulators of sixteen lanes that fit the registers beside what is being multiplied.
#if defined(__AVX512F__)
constexpr int kAccumulators = 24;
#elif defined(__AVX2__) || defined(__aarch64__)
constexpr int kAccumulators = 6;
#else
constexpr int kAccumulators = 3;
#endif
constexpr int kMaxTile = kAccumulators > 12 ? 12 : kAccumulators;  // rows of a register tile
constexpr int kMaxColumns = 4;                                     // registers of keys or dimensions beside each other
constexpr int kGroups = kSplit / kLanes;
constexpr int kWeighed = 64;     // keys, and dimensions, whose values are converted at a time: 16 KiB
constexpr int kDirectRows = 12;  // up to so many rows, float16 is converted where it is used
constexpr float kNothing = -1e30f;
constexpr float kLog2E = 1.44269504f;

constexpr int columns_for(int n_row) {
    return n_row * 4 <= kAccumulators ? 4 : n_row * 2 <= kAccumulators ? 2 : 1;
}

// What the vectors of a product hold: how to load one step of sixteen lanes, and to add its product with a scalar.
struct FromFloat {
    static constexpr int kStepBytes = 64, kKeys = 1;
    typedef Floats Vector;
    LK_INLINE Vector vector(const uint8_t* x) { return load((const float*)x); }
    LK_INLINE Vector scalar(const float* y) { return splat(*y); }
    LK_INLINE Floats add(Vector x, Vector y, Floats sum) { return fma(x, y, sum); }
};

struct FromHalf : FromFloat {
    static constexpr int kStepBytes = 32;
    LK_INLINE Vector vector(const uint8_t* x) { return load_half((const uint16_t*)x); }
};

#if defined(__AVX512BF16__)
// Pairs of bfloat16 on both sides.
struct FromPairs {
    static constexpr int kStepBytes = 64, kKeys = 2;
    typedef __m512i Vector;
    LK_INLINE Vector vector(const uint8_t* x) { return _mm512_loadu_si512(x); }
    LK_INLINE Vector scalar(const float* y) { return _mm512_set1_epi32(*(const int32_t*)y); }
    LK_INLINE Floats add(Vector x, Vector y, Floats sum) {
        sum.p[0] = (FloatPart)_mm512_dpbf16_ps((__m512)sum.p[0], (__m512bh)x, (__m512bh)y);
        return sum;
    }
};
constexpr bool kPairs = true;
#else
typedef FromFloat FromPairs;
constexpr bool kPairs = false;
#endif

// The keys and values of one partial, as pointers to each group's panel in the cache; null if they do not lie there in
// groups.
struct Partial {
    int32_t begin, n;  // first key, keys that any row sees
    const uint8_t* k[kGroups];
    const uint8_t* v[kGroups];
};

// Ask for a panel long before it is needed: panels of one head lie apart, which processors do not foresee.
LK_INLINE void fetch(const uint8_t* panel, int64_t n) {
    for (int64_t i = 0; i < n; i += 64) __builtin_prefetch(panel + i, 0, 2);
}

// One row's result: dim_v values (in whole registers), then the maximum in units of log2 and the sum of the weights.
LK_INLINE int64_t whole(int64_t n) {
    return (n + kLanes - 1) / kLanes * kLanes;
}

int64_t attend_part(int64_t dim_v) {
    return whole(dim_v) + kLanes;
}

int64_t attend_scratch(int64_t n_rows, int64_t dim_k, int64_t dim_v) {
    return n_rows * (2 * attend_part(dim_v) + dim_k + 1 + kSplit) + kMaxColumns * kLanes * dim_k + kWeighed * kWeighed +
           8 * kLanes;
}

LK_INLINE int64_t cell_of(const Keys& keys, int64_t position) {
    return int64_t(keys.blocks[position / keys.block_size]) * keys.block_size + position % keys.block_size;
}

// Whether groups of 16 neighbouring keys lie in the cache as they are wanted.
LK_INLINE bool grouped(const AttendTask& t) {
    return t.keys.block_size % kLanes == 0;
}

// Keys [at, at + m), m <= 16, at a multiple of 16, to float32: y is [dim_k][16].
LK_INLINE void convert_k(const AttendTask& t, int64_t at, int64_t m, float* y) {
    const Keys& keys = t.keys;
    if (grouped(t)) return read_k_panel(*keys.layer, cell_of(keys, at), t.head_kv, y);
    for (int64_t lane = 0; lane < kLanes; ++lane) {
        const int64_t key = at + (lane < m ? lane : 0);
        for (int64_t d = 0; d < t.dim_k; ++d)
            y[d * kLanes + lane] = k_value(*keys.layer, cell_of(keys, key), t.head_kv, d);
    }
}

// Dimensions [from, from + n) of the values of keys [at, at + m) to float32, a row of kWeighed floats a key.
LK_INLINE void convert_v(const AttendTask& t, int64_t at, int64_t m, int64_t from, int64_t n, float* y) {
    const Keys& keys = t.keys;
    if (grouped(t) && n % kLanes == 0 && t.dim_v % kLanes == 0) {
        for (int64_t i = 0; i < m; i += kLanes, y += kLanes * kWeighed)
            read_v_panel(*keys.layer, cell_of(keys, at + i), t.head_kv, m - i < kLanes ? m - i : kLanes, from, n, y,
                         kWeighed);
        return;
    }
    for (int64_t key = at; key < at + m; ++key, y += kWeighed)
        read_v_row(*keys.layer, cell_of(keys, key), t.head_kv, from, n, y);
}

// Adds to sums[row][column] the products of n steps: vectors x[column] + i * x_step, scalars y[row * kRow + i * kStep].
// What lies likewise at `ahead` is asked for, little by little, so that it comes while this is computed.
template <class From, int kColumns, int kRows, int kRow, int kStep>
LK_INLINE void multiply(const uint8_t* const* x, const uint8_t* const* ahead, int64_t x_step, const float* y, int n,
                        Floats (&sums)[kRows][kColumns]) {
#pragma GCC unroll 2
    for (int i = 0; i < n; ++i) {
#pragma GCC unroll 4
        for (int c = 0; c < kColumns; ++c) __builtin_prefetch(ahead[c] + i * x_step, 0, 2);
        typename From::Vector v[kColumns];
#pragma GCC unroll 4
        for (int c = 0; c < kColumns; ++c) v[c] = From::vector(x[c] + i * x_step);
#pragma GCC unroll 12
        for (int r = 0; r < kRows; ++r) {
            const typename From::Vector w = From::scalar(y + r * kRow + i * kStep);
#pragma GCC unroll 4
            for (int c = 0; c < kColumns; ++c) sums[r][c] = From::add(v[c], w, sums[r][c]);
        }
    }
}

// Scores of kRows rows with kColumns groups of keys; q is [steps][kRows].
template <class From, int kColumns, int kRows>
LK_INLINE void score(const uint8_t* const* k, const uint8_t* const* ahead, const float* q, int steps, float* s) {
    Floats sums[kRows][kColumns] = {};
    multiply<From, kColumns, kRows, 1, kRows>(k, ahead, From::kStepBytes, q, steps, sums);
    for (int r = 0; r < kRows; ++r)
        for (int c = 0; c < kColumns; ++c) store(s + r * kSplit + c * kLanes, sums[r][c]);
}

// Where the values of each group of 16 keys begin: in the cache, or, converted, one after the other.
struct Values {
    const uint8_t* const* cached;
    const uint8_t* converted;
    const uint8_t* const* ahead;  // panels that will be needed next, or nulls
    int first;                    // the group with which the converted ones begin
    int64_t offset;               // of the columns
    LK_INLINE const uint8_t* of(const Values& v, int group) {
        return v.offset + (v.cached
                               ? v.cached[group]
                               : v.converted + int64_t(group - v.first) * kLanes * kWeighed * int64_t(sizeof(float)));
    }
};

// out += weights * values of keys [from, to), counted from the partial's start; both at multiples of From::kKeys except
// that a pair may end in a key that nobody sees.
template <class From, int kColumns, int kRows>
LK_INLINE void weigh(const Values& v, int64_t step_bytes, const float* p, int from, int to, float* out, int64_t ld) {
    constexpr int kSteps = kLanes / From::kKeys;  // of a group
    Floats sums[kRows][kColumns];
    for (int r = 0; r < kRows; ++r)
        for (int c = 0; c < kColumns; ++c) sums[r][c] = load(out + r * ld + c * kLanes);
    const int last = to / From::kKeys;
    for (int step = from / From::kKeys; step < last;) {
        const int group = step / kSteps, within = step % kSteps;
        const int n = last - step < kSteps - within ? last - step : kSteps - within;
        const uint8_t *x[kColumns], *ahead[kColumns];
        for (int c = 0; c < kColumns; ++c) {
            x[c] = Values::of(v, group) + within * step_bytes + c * From::kStepBytes;
            ahead[c] = v.cached && v.ahead[group] ? v.ahead[group] + (x[c] - v.cached[group]) : x[c];
        }
        multiply<From, kColumns, kRows, kSplit, 1>(x, ahead, step_bytes, p + step, n, sums);
        step += n;
    }
#if defined(__AVX512BF16__)
    if (From::kKeys == 2 && to % 2)  // the pair's second cell may hold anything
        for (int c = 0; c < kColumns; ++c) {
            const uint8_t* x = Values::of(v, last / kSteps) + last % kSteps * step_bytes + c * From::kStepBytes;
            const __m512i alone = _mm512_and_si512(_mm512_loadu_si512(x), _mm512_set1_epi32(0xffff));
            for (int r = 0; r < kRows; ++r)
                sums[r][c] = FromPairs::add(alone, FromPairs::scalar(p + r * kSplit + last), sums[r][c]);
        }
#endif
    for (int r = 0; r < kRows; ++r)
        for (int c = 0; c < kColumns; ++c) store(out + r * ld + c * kLanes, sums[r][c]);
}

// Calls body.operator()<n>() with the n in [1, kEnd] that is asked for.
template <int kEnd, class Body>
LK_INLINE void with_number(int n, Body body) {
    if constexpr (kEnd > 1) {
        if (n < kEnd) return with_number<kEnd - 1>(n, body);
    }
    body.template operator()<kEnd>();
}

// All of one task's working memory, and what its rows see of the partial at hand.
struct Attention {
    const AttendTask& t;
    int n_rows, n_tile;  // rows; register tiles that they make
    int64_t part;        // floats of a row's result
    bool direct;         // panels of the cache are multiplied as they lie, not converted to float32 first
    float *q, *s, *k, *v;

    int64_t k_bytes() const { return t.keys.layer->pad_k * kLanes * size_of(t.keys.layer->type); }  // of a panel
    int64_t v_bytes() const { return t.keys.layer->dim_v * kLanes * size_of(t.keys.layer->type); }
    int tile_begin(int tile) const { return int(int64_t(n_rows) * tile / n_tile); }
    int from(const Partial& p, int row) const {
        const int32_t first = t.first[row / t.group] - p.begin;
        return first > 0 ? first : 0;
    }
    int to(const Partial& p, int row) const {
        const int32_t last = t.last[row / t.group] - p.begin;
        return last < p.n ? last : p.n;
    }
};

// Keys [from, to) of the partial that any row in [begin, end) sees; an empty range has from >= to.
LK_INLINE void seen(const Attention& a, const Partial& p, int begin, int end, int& from, int& to) {
    from = kSplit, to = 0;
    for (int row = begin; row < end; row += 1) {
        const int f = a.from(p, row), l = a.to(p, row);
        if (f >= l) continue;
        from = f < from ? f : from, to = l > to ? l : to;
    }
}

// Queries times scale and log2(e), tile by tile: [dim_k][rows of the tile], for pairs [dim_k / 2][rows] of bfloat16.
template <class From>
LK_INLINE void pack_queries(const Attention& a) {
    const AttendTask& t = a.t;
    const float factor = t.scale * kLog2E;
    for (int tile = 0; tile < a.n_tile; ++tile) {
        const int begin = a.tile_begin(tile), n = a.tile_begin(tile + 1) - begin;
        for (int j = 0; j < n; ++j) {
            const int row = begin + j;
            const float* x = t.q[row / t.group] + int64_t(t.head_kv * t.group + row % t.group) * t.dim_k;
            float* y = a.q + int64_t(begin) * t.dim_k + j;
            if (From::kKeys == 1)
                for (int d = 0; d < t.dim_k; ++d) y[int64_t(d) * n] = x[d] * factor;
            else
                for (int d = 0; d < t.dim_k / 2; ++d) {
                    const uint32_t low = to_bf16(x[2 * d] * factor), high = to_bf16(x[2 * d + 1] * factor);
                    y[int64_t(d) * n] = float_of(low | high << 16);
                }
        }
    }
}

// Scores of all rows with the keys of the partial.
template <class From>
LK_INLINE void score_all(const Attention& a, const Partial& p) {
    const AttendTask& t = a.t;
    const int columns = columns_for(a.tile_begin(1)), n_group = (p.n + kLanes - 1) / kLanes;
    const int steps = t.dim_k / From::kKeys;
    for (int group = 0, n; group < n_group; group += n) {
        n = n_group - group < columns ? 1 : columns;
        const uint8_t *k[kMaxColumns], *ahead[kMaxColumns];
        bool ready = a.direct;
        for (int c = 0; c < n && ready; ++c) k[c] = p.k[group + c], ahead[c] = p.v[group + c];
        for (int tile = 0; tile < a.n_tile; ++tile) {
            const int begin = a.tile_begin(tile), count = a.tile_begin(tile + 1) - begin;
            int from, to;
            seen(a, p, begin, begin + count, from, to);
            if (from >= to || to <= group * kLanes || from >= (group + n) * kLanes) continue;
            if (!ready) {
                for (int c = 0; c < n; ++c) {
                    const int at = (group + c) * kLanes;
                    float* y = a.k + int64_t(c) * kLanes * t.dim_k;
                    convert_k(t, p.begin + at, p.n - at, y);
                    if (p.v[group]) fetch(p.v[group + c], a.v_bytes());
                    k[c] = ahead[c] = (const uint8_t*)y;
                }
                ready = true;
            }
            const float* q = a.q + int64_t(begin) * t.dim_k;
            float* s = a.s + int64_t(begin) * kSplit + group * kLanes;
            with_number<kMaxTile>(count, [&]<int kRows>() LK_LAMBDA {
                constexpr int kColumns = columns_for(kRows);
                if (n == kColumns) return score<From, kColumns, kRows>(k, ahead, q, steps, s);
                for (int c = 0; c < n; ++c) score<From, 1, kRows>(k + c, ahead + c, q, steps, s + c * kLanes);
            });
        }
    }
}

// Scores [from, to) of one row to weights, in place, zeros over the rest of the groups [first, last) that its tile
// reads. As pairs they take half the room.
template <class From>
LK_INLINE void soften(float* s, int from, int to, int first, int last, float* top_and_total) {
    constexpr int kRoom = kLanes / From::kKeys;
    const int begin = from / kLanes, end = (to + kLanes - 1) / kLanes;
    for (int i = begin * kLanes; i < from; ++i) s[i] = kNothing;
    for (int i = to; i < end * kLanes; ++i) s[i] = kNothing;
    Floats tops = splat(kNothing), sums = splat(0.0f);
    for (int g = begin; g < end; ++g) tops = max(load(s + g * kLanes), tops);
    const float top = maximum(tops);
    const Floats highest = splat(top);
    for (int g = first; g < last; ++g) {
        Floats w = splat(0.0f);
        if (g >= begin && g < end) w = exp2_below<From::kKeys == 2>(load(s + g * kLanes) - highest);
        sums = sums + w;
#if defined(__AVX512BF16__)
        if (From::kKeys == 2) {
            _mm256_storeu_si256((__m256i*)(s + g * kRoom), (__m256i)_mm512_cvtneps_pbh((__m512)w.p[0]));
            continue;
        }
#endif
        store(s + g * kRoom, w);
    }
    top_and_total[0] = top, top_and_total[1] = sum(sums);
}

// The score of a row with each key [from, to) of the partial, which is in units of log2, capped and with its bias.
LK_INLINE void adjust(const Attention& a, const Partial& p, int row, int from, int to, float* s) {
    const AttendTask& t = a.t;
    constexpr float kCount[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const Floats cap = splat(t.cap * kLog2E), lanes = load(kCount);
    const float slope = t.slopes ? t.slopes[t.head_kv * t.group + row % t.group] * kLog2E : 0.0f;
    const int32_t position = t.last[row / t.group] - 1;
    for (int i = from / kLanes * kLanes; i < to; i += kLanes) {
        Floats x = load(s + i);
        if (t.cap > 0.0f) x = cap * tanh(x / cap);
        if (t.slopes) x = fma(splat(slope), lanes + splat(float(p.begin + i - position)), x);
        store(s + i, x);
    }
}

template <class From>
LK_INLINE void soften_all(const Attention& a, const Partial& p, float* parts) {
    for (int tile = 0; tile < a.n_tile; ++tile) {
        const int begin = a.tile_begin(tile), end = a.tile_begin(tile + 1);
        int from, to;
        seen(a, p, begin, end, from, to);
        const int first = from / kLanes, last = (to + kLanes - 1) / kLanes;
        for (int row = begin; row < end; ++row) {
            float* result = parts + row * a.part + a.part - kLanes;
            const int f = a.from(p, row), l = a.to(p, row);
            float* s = a.s + int64_t(row) * kSplit;
            if (f < l) {
                if (a.t.cap > 0.0f || a.t.slopes) adjust(a, p, row, f, l, s);
                soften<From>(s, f, l, first, last, result);
                continue;
            }
            result[0] = kNothing, result[1] = 0.0f;
            for (int g = first; g < last; ++g) store(s + g * kLanes, splat(0.0f));
        }
    }
}

// Values of all rows: a few keys at a time, so that they stay in the nearest cache for all tiles of rows.
template <class From>
LK_INLINE void weigh_all(const Attention& a, const Partial& p, const Partial& next, float* parts) {
    const AttendTask& t = a.t;
    for (int row = 0; row < a.n_rows; ++row)
        for (int64_t d = 0; d < a.part - kLanes; d += kLanes) store(parts + row * a.part + d, splat(0.0f));
    const int width = int(a.part - kLanes);
    for (int begin = 0; begin < p.n; begin += kWeighed) {
        const int end = p.n - begin < kWeighed ? p.n : begin + kWeighed;
        for (int g = begin / kLanes; !a.direct && g < (begin + kWeighed) / kLanes && next.k[g]; ++g)
            fetch(next.k[g], a.k_bytes());
        for (int d = 0; d < width; d += kWeighed) {
            const int n = width - d < kWeighed ? width - d : kWeighed;
            const int64_t step = a.direct ? int64_t(t.dim_v) / kLanes * From::kStepBytes : kWeighed * 4;
            const Values values = {a.direct ? p.v : nullptr, (const uint8_t*)a.v, next.k, begin / kLanes,
                                   a.direct ? d / kLanes * From::kStepBytes : 0};
            bool ready = a.direct;
            for (int tile = 0; tile < a.n_tile; ++tile) {
                const int row = a.tile_begin(tile), count = a.tile_begin(tile + 1) - row;
                int from, to;
                seen(a, p, row, row + count, from, to);
                from = from > begin ? from : begin, to = to < end ? to : end;
                if (from >= to) continue;
                if (!ready) {
                    convert_v(t, p.begin + begin, end - begin, d, t.dim_v - d < n ? t.dim_v - d : n, a.v);
                    ready = true;
                }
                const float* w = a.s + int64_t(row) * kSplit;
                float* out = parts + row * a.part + d;
                with_number<kMaxTile>(count, [&]<int kRows>() LK_LAMBDA {
                    constexpr int kColumns = columns_for(kRows);
                    int c = 0;
                    Values at = values;
                    for (; c + kColumns * kLanes <= n; c += kColumns * kLanes, at.offset += kColumns * From::kStepBytes)
                        weigh<From, kColumns, kRows>(at, step, w, from, to, out + c, a.part);
                    for (; c < n; c += kLanes, at.offset += From::kStepBytes)
                        weigh<From, 1, kRows>(at, step, w, from, to, out + c, a.part);
                });
            }
        }
    }
}

// Takes one partial's result of a row into the running one.
LK_INLINE void merge(const float* part, float* run, int64_t n) {
    const float top = part[n - kLanes], total = part[n - kLanes + 1];
    if (total == 0.0f) return;  // the row sees nothing of it
    float &run_top = run[n - kLanes], &run_total = run[n - kLanes + 1];
    const float highest = top > run_top ? top : run_top;
    const Floats before = run_total == 0.0f ? splat(0.0f) : exp2_below<false>(splat(run_top - highest));
    const Floats now = exp2_below<false>(splat(top - highest));
    for (int64_t d = 0; d < n - kLanes; d += kLanes) store(run + d, fma(load(part + d), now, load(run + d) * before));
    float lanes[kLanes];
    store(lanes, fma(splat(total), now, splat(run_total) * before));
    run_total = lanes[0], run_top = highest;
}

LK_INLINE void start(float* runs, int n_rows, int64_t n) {
    for (int row = 0; row < n_rows; ++row, runs += n) {
        for (int64_t d = 0; d < n; d += kLanes) store(runs + d, splat(0.0f));
        runs[n - kLanes] = kNothing;
    }
}

// What a row's values are multiplied by in the end: 1 / the sum of its weights, and of the sink's.
LK_INLINE float share(const AttendTask& t, int64_t head, float top, float total) {
    if (!t.sinks) return 1.0f / total;
    const float sink = t.sinks[head] * kLog2E, highest = top > sink ? top : sink;
    float before[kLanes], now[kLanes];
    store(before, exp2_below<false>(splat(top - highest)));
    store(now, exp2_below<false>(splat(sink - highest)));
    return before[0] / (total * before[0] + now[0]);
}

LK_INLINE void finish(const AttendTask& t, const float* runs, int64_t n) {
    for (int row = 0; row < t.n_rows * t.group; ++row, runs += n) {
        const int64_t head = t.head_kv * t.group + row % t.group;
        scale(runs, share(t, head, runs[n - kLanes], runs[n - kLanes + 1]), t.dim_v,
              t.out[row / t.group] + head * t.dim_v);
    }
}

LK_INLINE Partial partial(const AttendTask& t, int32_t split, int32_t last) {
    Partial p = {};
    p.begin = split * kSplit, p.n = last - p.begin < kSplit ? last - p.begin : kSplit;
    for (int g = 0; grouped(t) && g * kLanes < p.n; ++g) {
        const int64_t cell = cell_of(t.keys, p.begin + g * kLanes);
        p.k[g] = k_panel(*t.keys.layer, cell, t.head_kv), p.v[g] = v_panel(*t.keys.layer, cell, t.head_kv);
    }
    return p;
}

// `direct`: the cache's own panels are what From loads.
template <class From>
LK_INLINE void attend_as(const AttendTask& t, bool direct, float* scratch) {
    Attention a = {t, t.n_rows * t.group, 0, attend_part(t.dim_v), direct, nullptr, nullptr, nullptr, nullptr};
    a.n_tile = (a.n_rows + kMaxTile - 1) / kMaxTile;
    float *runs = scratch, *own = runs + a.n_rows * a.part;
    a.s = own + a.n_rows * a.part, a.v = a.s + int64_t(a.n_rows) * kSplit, a.k = a.v + kWeighed * kWeighed;
    a.q = a.k + kMaxColumns * kLanes * int64_t(t.dim_k);
    pack_queries<From>(a);
    if (!t.parts) start(runs, a.n_rows, a.part);
    int32_t last = 0;
    for (int r = 0; r < t.n_rows; ++r) last = t.last[r] > last ? t.last[r] : last;
    Partial next = partial(t, t.split_begin, last);
    for (int32_t split = t.split_begin; split < t.split_end; ++split) {
        const Partial p = next;
        next = partial(t, split + 1, split + 1 < t.split_end ? last : 0);
        float* parts = t.parts ? t.parts + int64_t(split - t.first_part) * a.n_rows * a.part : own;
        score_all<From>(a, p);
        soften_all<From>(a, p, parts);
        weigh_all<From>(a, p, next, parts);
        for (int row = 0; row < a.n_rows && !t.parts; ++row) merge(parts + row * a.part, runs + row * a.part, a.part);
    }
    if (!t.parts) finish(t, runs, a.part);
}

void attend(const AttendTask& t, float* scratch) {
    const bool lies = grouped(t) && t.dim_v % kLanes == 0;
    const KVType type = t.keys.layer->type;
    if (kPairs && lies && type == KVType::bf16 && t.dim_k % 2 == 0) return attend_as<FromPairs>(t, true, scratch);
#if defined(__F16C__) || defined(__AVX512F__)
    if (lies && type == KVType::f16 && t.n_rows * t.group <= kDirectRows) return attend_as<FromHalf>(t, true, scratch);
#endif
    attend_as<FromFloat>(t, lies && type == KVType::f32, scratch);
}

void attend_merge(const AttendTask& t, float* scratch) {
    const int n_rows = t.n_rows * t.group;
    const int64_t part = attend_part(t.dim_v);
    start(scratch, n_rows, part);
    for (int32_t split = t.split_begin; split < t.split_end; ++split)
        for (int row = 0; row < n_rows; ++row)
            merge(t.parts + (int64_t(split - t.first_part) * n_rows + row) * part, scratch + row * part, part);
    finish(t, scratch, part);
}
