// C += A B, block by block: panels of sixteen columns of B, tiles of a few rows of A, sums in registers. Either side is
// read as it lies or packed first, whatever the caller finds cheaper; the sums are the same.
// Included by units of kernels, inside their anonymous namespace.

#if defined(__AVX512F__)
constexpr int kTileRows = 12, kTilePanels = 2;
#elif defined(__AVX2__) || defined(__aarch64__)
constexpr int kTileRows = 6, kTilePanels = 1;
#else
constexpr int kTileRows = 2, kTilePanels = 1;
#endif
constexpr int64_t kPanelFloats = kDepth * kLanes;
constexpr int64_t kRowsTogether = 96;  // of A that stay in the second cache while panels pass by
constexpr int64_t kShortSum = 64;

// Where the operands of a tile lie, in words: A's element (j, i) at a[j * a_row + i * a_k].
struct TileOperands {
    int64_t k;
    const float* a;
    int64_t a_row, a_k;
    const float* b;
    int64_t b_panel;
};

// Sums of one tile to out[panel][row]. Packed: a_row is 1, a_k kRows.
template <int kRows, int kPanels, bool kPacked, bool kPairs>
void product_tile(const TileOperands& t, Floats* out) {
    Floats acc[kPanels][kRows];
    for (int p = 0; p < kPanels; ++p)
        for (int j = 0; j < kRows; ++j) acc[p][j] = splat(0.0f);
    const int64_t a_row = kPacked ? 1 : t.a_row, a_k = kPacked ? kRows : t.a_k, b_panel = t.b_panel, k = t.k;
    const float *a = t.a, *b = t.b;
#pragma GCC unroll 2
    for (int64_t i = 0; i < k; ++i, a += a_k, b += kLanes) {
        Floats w[kPanels];
#pragma GCC unroll 4
        for (int p = 0; p < kPanels; ++p) w[p] = load(b + p * b_panel);
#pragma GCC unroll 16
        for (int j = 0; j < kRows; ++j) {
            const Floats x = splat(a[j * a_row]);
#pragma GCC unroll 4
            for (int p = 0; p < kPanels; ++p) {
                if constexpr (kPairs) {
                    Ints left, right;
                    LK_PARTS left.p[i] = (IntPart)w[p].p[i], right.p[i] = (IntPart)x.p[i];
                    acc[p][j] = dot_bf16(acc[p][j], left, right);
                } else {
                    acc[p][j] = fma(w[p], x, acc[p][j]);
                }
            }
        }
    }
    for (int p = 0; p < kPanels; ++p)
        for (int j = 0; j < kRows; ++j) out[p * kRows + j] = acc[p][j];
}

using ProductTile = void (*)(const TileOperands&, Floats*);

struct ProductTiles {
    ProductTile of[2][2][2][kTileRows];  // [pairs][packed][panels at once][rows - 1]
};

constexpr ProductTiles product_tiles() {
    ProductTiles made{};
    each_number<kTileRows>([&]<int kAt>() {
        each_number<2>([&]<int kPacked>() {
            made.of[0][kPacked][0][kAt] = product_tile<kAt + 1, 1, kPacked != 0, false>;
            made.of[0][kPacked][1][kAt] = product_tile<kAt + 1, kTilePanels, kPacked != 0, false>;
            // Pairs are packed always: what asks for them never reads A as it lies.
            made.of[1][kPacked][0][kAt] = product_tile<kAt + 1, 1, true, true>;
            made.of[1][kPacked][1][kAt] = product_tile<kAt + 1, kTilePanels, true, true>;
        });
    });
    return made;
}

constexpr ProductTiles kProductTiles = product_tiles();

// Rows [row, row + tile) of columns [column, column + 16) of C.
LK_INLINE void put_tile(const ProductTask& t, const Floats* acc, int64_t row, int tile, int64_t column) {
    const int64_t n = t.n_end - column < kLanes ? t.n_end - column : kLanes;
    const Floats bias = t.bias ? take(t.bias + column, n) : splat(0.0f);
    float* c = t.c + row * t.c_row + column;
    for (int j = 0; j < tile; ++j, c += t.c_row) {
        Floats y = acc[j];
        if (t.bias) y = y + bias;
        put(c, t.add ? take(c, n) + y : y, n);
    }
}

// One tile of rows times panels of B, of which `n_panel` begin at column `at`.
LK_INLINE void multiply_tile(const ProductTask& t, const float* b, int64_t b_panel, int64_t row, int tile, int64_t at,
                             int64_t n_panel) {
    const int64_t words = t.pairs ? (t.k + 1) / 2 : t.k;
    const float* a = t.packed_a ? t.packed_a + row * words : t.a.data + row * t.a.row;
    const bool many = n_panel == kTilePanels;
    Floats acc[kTilePanels * kTileRows];
    kProductTiles.of[t.pairs][t.packed_a != nullptr][many][tile - 1]({words, a, t.a.row, t.a.column, b, b_panel}, acc);
    for (int64_t i = 0; i < n_panel; ++i) put_tile(t, acc + i * tile, row, tile, at + i * kLanes);
}

// All rows of `n_panel` panels from column `at` on. A panel stays in the first cache while rows pass by; where sums are
// short it matters more that a row of C is written in one go.
LK_INLINE void multiply_panels(const ProductTask& t, const float* b, int64_t b_panel, int64_t at, int64_t n_panel) {
    const int64_t rows = t.k <= kShortSum ? kTileRows : kRowsTogether;
    for (int64_t first = 0; first < t.m; first += rows) {
        const int64_t last = t.m - first < rows ? t.m : first + rows;
        for (int64_t p = 0, step; p < n_panel; p += step) {
            step = n_panel - p >= kTilePanels ? kTilePanels : 1;
            for (int64_t row = first; row < last; row += kTileRows)
                multiply_tile(t, b + p * b_panel, b_panel, row, tile_at(last - row, kTileRows), at + p * kLanes, step);
        }
    }
}
