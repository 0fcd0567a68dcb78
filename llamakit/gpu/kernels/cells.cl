// The KV cache: of a layer one row of bytes a cell, keys then values, each in GGUF blocks of the type named by -D. This
// is the canonical form of session files. STORED_BLOCK and STORED_BYTES are those of a block.
#if defined(KV_F32)
FN float stored(GLOBAL const u8 *row, int i) { return ((GLOBAL const float *)row)[i]; }
#elif defined(KV_F16)
FN float stored(GLOBAL const u8 *row, int i) { return HALF_AT(row + 2 * i); }
#elif defined(KV_BF16)
FN float stored(GLOBAL const u8 *row, int i) { return bfloat_value(*(GLOBAL const u16 *)(row + 2 * i)); }
#elif defined(KV_Q8_0)
FN float stored(GLOBAL const u8 *row, int i) {
    GLOBAL const u8 *block = row + i / 32 * 34;
    return HALF_AT(block) * (float)((GLOBAL const signed char *)block)[2 + i % 32];
}
#endif

// Eight of them, from one that is a multiple of eight.
FN void stored_eight(GLOBAL const u8 *row, int i, float *v) {
#if defined(KV_Q8_0)
    GLOBAL const u8 *block = row + i / 32 * 34;
    float d = HALF_AT(block);
    for (int j = 0; j < 8; ++j) v[j] = d * (float)((GLOBAL const signed char *)block)[2 + i % 32 + j];
#else
    for (int j = 0; j < 8; ++j) v[j] = stored(row, i + j);
#endif
}

// Of a query and a head's key: its `n` values from `begin` on. Eight sums, so that none waits for another.
FN float dot_stored(GLOBAL const float *q, GLOBAL const u8 *row, int begin, int n) {
    float sums[8], v[8];
    for (int j = 0; j < 8; ++j) sums[j] = 0.0f;
    int i = 0;
    if (begin % 8 == 0)
        for (; i + 8 <= n; i += 8) {
            stored_eight(row, begin + i, v);
            for (int j = 0; j < 8; ++j) sums[j] = FMA(q[i + j], v[j], sums[j]);
        }
    for (; i < n; ++i) sums[0] = FMA(q[i], stored(row, begin + i), sums[0]);
    return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
}

// STORED_BLOCK values, rounded.
FN void store(const float *x, GLOBAL u8 *to) {
#if defined(KV_F32)
    *(GLOBAL float *)to = x[0];
#elif defined(KV_F16)
    STORE_HALF(x[0], to);
#elif defined(KV_BF16)
    *(GLOBAL u16 *)to = (u16)bfloat_bits(x[0]);
#elif defined(KV_Q8_0)
    float most = 0.0f;
    for (int i = 0; i < 32; ++i) most = FABS(x[i]) > most ? FABS(x[i]) : most;
    float d = most / 127.0f, inverse = d > 0.0f ? 1.0f / d : 0.0f;
    STORE_HALF(d, to);
    for (int i = 0; i < 32; ++i) {
        float q = x[i] * inverse, whole = FLOOR(FABS(q));  // halves are rounded away from 0
        if (FABS(q) - whole >= 0.5f) whole += 1.0f;
        ((GLOBAL signed char *)to)[2 + i] = (signed char)(q < 0.0f ? -whole : whole);
    }
#endif
}

// A block of keys or values of a row into its cell.
KERNEL void store_cells(BUF(const float, k), BUF(const float, v), BUF(const int, cells), BUF(u8, cache),
                        const int n_row, const int n_k, const int n_v, const int k_bytes, const int row_bytes) {
    USE(const float, k);
    USE(const float, v);
    USE(const int, cells);
    USE(u8, cache);
    int n_block = (n_k + n_v) / STORED_BLOCK;
    if (INDEX >= (i64)n_row * n_block) return;
    int i = (int)(INDEX % n_block) * STORED_BLOCK, r = (int)(INDEX / n_block);
    GLOBAL const float *from = i < n_k ? k + (i64)r * n_k + i : v + (i64)r * n_v + (i - n_k);
    float x[STORED_BLOCK];
    for (int j = 0; j < STORED_BLOCK; ++j) x[j] = from[j];
    GLOBAL u8 *to = cache + (i64)cells[r] * row_bytes;
    to += i < n_k ? i / STORED_BLOCK * STORED_BYTES : k_bytes + (i - n_k) / STORED_BLOCK * STORED_BYTES;
    store(x, to);
}

// Attention of a row's head over positions 0..p of its sequence: CHUNK scores at a time, then the values that they
// weigh. HEAD_V: values of a head. With SPLIT, units take so many positions of a head each, and `y` gets PARTIAL numbers of
// each: the sum of values, the largest score, and the sum of weights relative to it; `merge_attention` puts them together.
#ifdef HEAD_V
#define PARTIAL (HEAD_V + 2)

KERNEL void attention(BUF(const float, q), BUF(const u8, cache), BUF(const int, positions), BUF(const int, sequences),
                      BUF(const int, tables), BUF(const float, slopes), BUF(const float, sinks), BUF(float, y),
                      const int n_row, const int n_head, const int n_head_kv, const int dim, const int k_bytes,
                      const int row_bytes, const int table_width, const int block_size, const int window,
                      const int has_slopes, const int has_sinks, const float factor, const float cap) {
    USE(const float, q);
    USE(const u8, cache);
    USE(const int, positions);
    USE(const int, sequences);
    USE(const int, tables);
    USE(const float, slopes);
    USE(const float, sinks);
    USE(float, y);
    PART;
    SPACE float scores[CHUNK];
    SPACE int cells[CHUNK];
#ifdef SPLIT
    int n_split = (table_width * block_size + SPLIT - 1) / SPLIT, pair = UNIT / n_split, part_at = UNIT % n_split * SPLIT;
    UNITS(n_row * n_head * n_split);
#else
    int pair = UNIT;
    UNITS(n_row * n_head);
#endif
    int r = pair / n_head, head = pair % n_head, kv_head = head / (n_head / n_head_kv);
    int p = positions[r], begin = window > 0 && p - window + 1 > 0 ? p - window + 1 : 0, last = p;
#ifdef SPLIT
    begin = begin > part_at ? begin : part_at;
    last = p < part_at + SPLIT - 1 ? p : part_at + SPLIT - 1;
#endif
    q += (i64)pair * dim;
    tables += (i64)sequences[r] * table_width;
#ifdef SPLIT
    float top = MINUS_INFINITY, sum = 0.0f;
#else
    float top = has_sinks ? sinks[head] : MINUS_INFINITY, sum = has_sinks ? 1.0f : 0.0f;
#endif
    float out[(HEAD_V + LANES - 1) / LANES];
    for (int i = 0; i < (HEAD_V + LANES - 1) / LANES; ++i) out[i] = 0.0f;
    for (int start = begin; start <= last; start += CHUNK) {
        int n = last + 1 - start < CHUNK ? last + 1 - start : CHUNK;
        float most = MINUS_INFINITY;
        for (int j = LANE; j < n; j += LANES) {
            int at = start + j;
            int cell = tables[at / block_size] * block_size + at % block_size;
            GLOBAL const u8 *keys = cache + (i64)cell * row_bytes;
            float score = factor * dot_stored(q, keys, kv_head * dim, dim);
            if (cap > 0.0f) score = cap * TANH(score / cap);
            if (has_slopes) score += slopes[head] * (float)(at - p);
            scores[j] = score;
            cells[j] = cell;
            most = score > most ? score : most;
        }
        most = lane_max(most, part);
        float old = top;
        top = most > top ? most : top;
        float rescale = EXP(old - top), more = 0.0f;
        for (int j = LANE; j < n; j += LANES) {
            scores[j] = EXP(scores[j] - top);
            more += scores[j];
        }
        sum = sum * rescale + lane_sum(more, part);
        MEET;
#if LANES == 1 && HEAD_V % 8 == 0  // cell by cell, as they lie
        for (int i = 0; i < HEAD_V; ++i) out[i] *= rescale;
        for (int j = 0; j < n; ++j) {
            GLOBAL const u8 *values = cache + (i64)cells[j] * row_bytes + k_bytes;
            float v[8];
            for (int i = 0; i < HEAD_V; i += 8) {
                stored_eight(values, kv_head * HEAD_V + i, v);
                for (int l = 0; l < 8; ++l) out[i + l] = FMA(scores[j], v[l], out[i + l]);
            }
        }
#else
        for (int i = LANE, o = 0; i < HEAD_V; i += LANES, ++o) {
            float value = out[o] * rescale;
            for (int j = 0; j < n; ++j) {
                GLOBAL const u8 *values = cache + (i64)cells[j] * row_bytes + k_bytes;
                value = FMA(scores[j], stored(values, kv_head * HEAD_V + i), value);
            }
            out[o] = value;
        }
#endif
        MEET;
    }
#ifdef SPLIT
    y += (i64)UNIT * PARTIAL;
    for (int i = LANE, o = 0; i < HEAD_V; i += LANES, ++o) y[i] = out[o];
    if (LANE == 0) {
        y[HEAD_V] = top;
        y[HEAD_V + 1] = sum;
    }
#else
    for (int i = LANE, o = 0; i < HEAD_V; i += LANES, ++o) y[(i64)UNIT * HEAD_V + i] = out[o] / sum;
#endif
}

// The parts of a row's head as one, in the order of positions.
KERNEL void merge_attention(BUF(const float, parts), BUF(const float, sinks), BUF(float, y), const int n_row,
                            const int n_head, const int n_split, const int has_sinks) {
    USE(const float, parts);
    USE(const float, sinks);
    USE(float, y);
    UNITS(n_row * n_head);
    float first = has_sinks ? sinks[UNIT % n_head] : MINUS_INFINITY, top = first;
    parts += (i64)UNIT * n_split * PARTIAL;
    for (int s = 0; s < n_split; ++s) top = parts[s * PARTIAL + HEAD_V] > top ? parts[s * PARTIAL + HEAD_V] : top;
    float sum = has_sinks ? EXP(first - top) : 0.0f;
    for (int s = 0; s < n_split; ++s)
        sum = FMA(parts[s * PARTIAL + HEAD_V + 1], EXP(parts[s * PARTIAL + HEAD_V] - top), sum);
    for (int i = LANE; i < HEAD_V; i += LANES) {
        float value = 0.0f;
        for (int s = 0; s < n_split; ++s)
            value = FMA(parts[s * PARTIAL + i], EXP(parts[s * PARTIAL + HEAD_V] - top), value);
        y[(i64)UNIT * HEAD_V + i] = value / sum;
    }
}
#endif

// Cells to cells of one layer with the keys rotated: a cell for each unit. What is read lies in a copy, so that cells
// may be source and destination.
KERNEL void shift_cells(BUF(const u8, old), BUF(u8, cache), BUF(const int, cells), BUF(const u64, turns),
                        const int n_cell, const int n_head, const int dim, const int n_pair, const int adjacent,
                        const int k_bytes, const int row_bytes, const int delta) {
    USE(const u8, old);
    USE(u8, cache);
    USE(const int, cells);
    USE(const u64, turns);
    if (INDEX >= n_cell) return;
    old += INDEX * row_bytes;
    cache += (i64)cells[INDEX] * row_bytes;
    for (int i = k_bytes; i < row_bytes; ++i) cache[i] = old[i];
    float x[STORED_BLOCK];
    for (int i = 0; i < n_head * dim; i += STORED_BLOCK) {
        for (int j = 0; j < STORED_BLOCK; ++j) {
            int at = (i + j) % dim, base = i + j - at, pair = -1, second = 0;
            if (at < 2 * n_pair) {
                pair = adjacent ? at / 2 : at % n_pair;
                second = adjacent ? at % 2 : at >= n_pair;
            }
            if (pair < 0) {
                x[j] = stored(old, i + j);
                continue;
            }
            float angle = (float)(i64)(turns[pair] * (u64)(i64)delta) * 3.4061215800304343e-19f;
            float a = stored(old, base + (adjacent ? 2 * pair : pair));
            float b = stored(old, base + (adjacent ? 2 * pair + 1 : pair + n_pair));
            x[j] = second ? a * SIN(angle) + b * COS(angle) : a * COS(angle) - b * SIN(angle);
        }
        store(x, cache + i / STORED_BLOCK * STORED_BYTES);
    }
}
