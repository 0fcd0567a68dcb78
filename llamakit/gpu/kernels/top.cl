// The likeliest of rows of logits, on copies of them. A group takes a row; its items parts of it, in order.
#define PART_BEGIN(n) (int)((i64)(n) * ITEM / WIDTH)
#define PART_END(n) (int)((i64)(n) * (ITEM + 1) / WIDTH)

// Bits whose order as numbers is that of floats.
FN u32 key_of(float x) {
    u32 bits = FLOAT_BITS(x == 0.0f ? 0.0f : x);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// One row's edits in order, an item a row: `starts` says where a row's edits begin, `first_mask` at which word its mask
// (below 0: none).
KERNEL void edit_rows(BUF(float, x), BUF(const int, starts), BUF(const int, ids), BUF(const float, repeats),
                      BUF(const float, values), const int n_row, const int n_vocab) {
    USE(float, x);
    USE(const int, starts);
    USE(const int, ids);
    USE(const float, repeats);
    USE(const float, values);
    if (INDEX >= n_row) return;
    x += INDEX * n_vocab;
    for (int i = starts[INDEX]; i < starts[INDEX + 1]; ++i) {
        float v = x[ids[i]];
        v = v > 0.0f ? v / repeats[i] : v * repeats[i];
        x[ids[i]] = v + values[i];
    }
}

KERNEL void mask_rows(BUF(float, x), BUF(const float, scales), BUF(const int, first_mask), BUF(const u32, masks),
                      const int n_row, const int n_vocab) {
    USE(float, x);
    USE(const float, scales);
    USE(const int, first_mask);
    USE(const u32, masks);
    if (INDEX >= (i64)n_row * n_vocab) return;
    int r = (int)(INDEX / n_vocab), i = (int)(INDEX % n_vocab), first = first_mask[r];
    float v = x[INDEX] * scales[r];
    if (first >= 0 && !((masks[first + i / 32] >> (i % 32)) & 1u)) v = MINUS_INFINITY;
    x[INDEX] = v;
}

// Of each row the `k` largest, of equal ones the first, in the order of the row; then WIDTH pairs of partial sums of
// exp(x - most) with what their rounding lost, the largest value, and how many are no numbers.
KERNEL void top_rows(BUF(const float, x), BUF(int, ids), BUF(float, values), BUF(float, sums), const int n_vocab,
                     const int k) {
    USE(const float, x);
    USE(int, ids);
    USE(float, values);
    USE(float, sums);
    SHARED int counts[256], before[WIDTH], equals[WIDTH], bad[WIDTH];
    SHARED float tops[WIDTH];
    SHARED int found[2];
    x += (i64)GROUP * n_vocab;
    ids += (i64)GROUP * k;
    values += (i64)GROUP * k;
    sums += (i64)GROUP * (2 * WIDTH + 2);
    int begin = PART_BEGIN(n_vocab), end = PART_END(n_vocab);
    u32 prefix = 0;
    int left = k;
    for (int shift = 24; shift >= 0; shift -= 8) {  // the key of the k-th largest, 8 bits at a time
        for (int i = ITEM; i < 256; i += WIDTH) counts[i] = 0;
        BARRIER;
        for (int i = begin; i < end; ++i) {
            u32 key = key_of(x[i]);
            if (shift == 24 || key >> (shift + 8) == prefix) ATOMIC_COUNT(&counts[(key >> shift) & 255u]);
        }
        BARRIER;
        if (ITEM == 0) {
            int digit = 255, above = 0;
            while (digit > 0 && above + counts[digit] < left) above += counts[digit--];
            found[0] = digit;
            found[1] = above;
        }
        BARRIER;
        prefix = prefix << 8 | (u32)found[0];
        left -= found[1];
        BARRIER;
    }
    int n_more = 0, n_equal = 0, n_bad = 0;
    float most = MINUS_INFINITY;
    for (int i = begin; i < end; ++i) {
        u32 key = key_of(x[i]);
        n_more += key > prefix;
        n_equal += key == prefix;
        n_bad += !(x[i] < BITS_FLOAT(0x7f800000u));
        most = x[i] > most ? x[i] : most;
    }
    before[ITEM] = n_more;
    equals[ITEM] = n_equal;
    bad[ITEM] = n_bad;
    tops[ITEM] = most;
    BARRIER;
    int more = 0, equal = 0;  // of the items before this one
    n_bad = 0;
    for (int i = 0; i < WIDTH; ++i) {
        more += i < ITEM ? before[i] : 0;
        equal += i < ITEM ? equals[i] : 0;
        n_bad += bad[i];
        most = tops[i] > most ? tops[i] : most;
    }
    float sum = 0.0f, lost = 0.0f;
    for (int i = begin; i < end; ++i) {
        u32 key = key_of(x[i]);
        int taken = key > prefix || (key == prefix && equal < left);
        int at = more + (equal < left ? equal : left);
        if (taken) {
            ids[at] = i;
            values[at] = x[i];
        }
        more += key > prefix;
        equal += key == prefix;
        float term = EXP(x[i] - most) - lost, next = sum + term;
        lost = (next - sum) - term;
        sum = next;
    }
    sums[2 * ITEM] = sum;
    sums[2 * ITEM + 1] = -lost;
    if (ITEM == 0) {
        sums[2 * WIDTH] = most;
        sums[2 * WIDTH + 1] = (float)n_bad;
    }
}
