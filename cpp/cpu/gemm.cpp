#include "cpu/gemm.h"

#include <algorithm>

namespace lk::cpu {
namespace {

constexpr int64_t kThin = kColumnsTogether;   // columns, or rows, up to which the other side is read as it lies
constexpr int64_t kSlab = 1 << 20;            // floats of A that are packed at a time
constexpr int64_t kMostRows = 2048;           // of A at a time
constexpr int64_t kRowsPerPiece = 96;         // a multiple of every tile
constexpr int64_t kSerialProducts = 1 << 16;  // below which waking threads costs more than it gives
constexpr int64_t kTasksPerThread = 4;
constexpr int64_t kScratch = kDepth * kColumnsTogether;

// A weight in float32 that lies in memory row by row is a matrix like any other.
Product of_plain_rows(const Product& p) {
    const WeightView* w = p.b.weight;
    if (!w || w->data != nullptr || w->kind != WeightKind::f32) return p;
    Product t = p;
    const Strided rows = rows_of(reinterpret_cast<const float*>(w->rows), w->n_in);
    t.b = {p.b.back ? rows : transposed(rows), nullptr, false};
    return t;
}

// C^T = B^T A^T.
Product turned(const Product& p) {
    Product t = p;
    std::swap(t.m, t.n);
    std::swap(t.c_row, t.c_column);
    t.a = transposed(p.b.values), t.b.values = transposed(p.a);
    return t;
}

// Whether the sides should change places: a thin side is packed, and the other one read along its rows.
bool should_turn(const Product& p) {
    if (p.b.weight || p.bias || p.pairs) return false;
    const bool b_down = p.b.values.row == 1 && p.b.values.column != 1, a_down = p.a.row == 1 && p.a.column != 1;
    return (p.m <= kThin && p.m < p.n && b_down) || (p.n <= kThin && p.n < p.m && a_down);
}

class Multiply {
  public:
    Multiply(const KernelTable& kernels, Pool& pool, Workspace& memory, const Product& p)
        : kernels_(kernels.training->products), pool_(pool), memory_(memory), p_(p) {
        serial_ = p.m * p.n * p.k < kSerialProducts;
    }

    void operator()() {
        if (p_.n <= kThin && p_.a.column == 1 && !p_.pairs && !p_.b.weight) return thin();
        for (int64_t row = 0; row < p_.m; row += kMostRows) wide(row, std::min(kMostRows, p_.m - row));
    }

  private:
    ProductTask task(int64_t row, int64_t m, int64_t k_begin) const {
        ProductTask t{};
        t.m = m, t.k_begin = k_begin, t.k = std::min<int64_t>(kDepth, p_.k - k_begin);
        t.n_end = p_.n;
        t.a = {p_.a.data + row * p_.a.row + k_begin * p_.a.column, p_.a.row, p_.a.column};
        t.b = p_.b, t.pairs = p_.pairs;
        t.add = p_.add || k_begin > 0;
        t.bias = k_begin == 0 ? p_.bias : nullptr;
        t.c = p_.c + row * p_.c_row, t.c_row = p_.c_row;
        return t;
    }

    // Calls body(c, c_row) for columns [begin, end) of rows [row, row + m), column 0 at `c`. Where they do not lie side
    // by side the body works on a copy, which begins with what is there if it will `add` to that.
    template <class Body>
    void with_rows_of_c(bool add, int64_t row, int64_t m, int64_t begin, int64_t end, int thread, Body body) {
        if (p_.c_column == 1) return body(p_.c + row * p_.c_row, p_.c_row);
        const int64_t n = end - begin;
        float* own = memory_.own(thread, kScratch + m * n) + kScratch;
        const auto each = [&](auto move) {
            for (int64_t j = 0; j < n; ++j)
                for (int64_t i = 0; i < m; ++i)
                    move(own[i * n + j], p_.c[(row + i) * p_.c_row + (begin + j) * p_.c_column]);
        };
        if (add) each([](float& mine, const float& theirs) { mine = theirs; });
        body(own - begin, n);
        each([](const float& mine, float& theirs) { theirs = mine; });
    }

    int64_t words(int64_t k) const { return p_.pairs ? (k + 1) / 2 : k; }

    // Few columns: B is packed once for all, A read as it lies.
    void thin() {
        const int64_t n_panel = pieces_of(p_.n, kLanes), block = n_panel * kDepth * kLanes;
        const int64_t n_block = pieces_of(p_.k, kDepth);
        float* packed = memory_.shared(n_block * block);
        run_on(pool_, serial_, n_block, [&](int64_t i, int) {
            kernels_.pack_right(p_.b, i * kDepth, std::min<int64_t>(kDepth, p_.k - i * kDepth), 0, p_.n, false,
                                packed + i * block);
        });
        run_on(pool_, serial_, pieces_of(p_.m, kRowsPerPiece), [&](int64_t piece, int thread) {
            const int64_t row = piece * kRowsPerPiece;
            const int64_t m = std::min(kRowsPerPiece, p_.m - row);
            with_rows_of_c(p_.add, row, m, 0, p_.n, thread, [&](float* c, int64_t c_row) {
                for (int64_t i = 0; i < n_block; ++i) {
                    ProductTask t = task(row, m, i * kDepth);
                    t.packed_b = packed + i * block;
                    t.c = c, t.c_row = c_row;
                    kernels_.product(t, nullptr);
                }
            });
        });
    }

    // Rows [row, row + m): A is packed for all threads, a slab of some blocks along k at a time; each takes columns.
    void wide(int64_t row, int64_t m) {
        const int64_t blocks = std::max<int64_t>(1, kSlab / (m * kDepth));
        for (int64_t k = 0; k < p_.k; k += blocks * kDepth) {
            const int64_t end = std::min(p_.k, k + blocks * kDepth);
            float* packed = memory_.shared(m * (end - k) + slab_of_weight(end - k));
            pack_slab(row, m, k, end, packed);
            multiply_slab(row, m, k, end, packed);
        }
    }

    void pack_slab(int64_t row, int64_t m, int64_t k, int64_t end, float* packed) {
        const int64_t n_piece = pieces_of(m, kRowsPerPiece);
        run_on(pool_, serial_, n_piece * pieces_of(end - k, kDepth), [&](int64_t i, int) {
            const int64_t from = i % n_piece * kRowsPerPiece, at = k + i / n_piece * kDepth;
            const int64_t depth = std::min<int64_t>(kDepth, end - at);
            const Strided a = {p_.a.data + (row + from) * p_.a.row + at * p_.a.column, p_.a.row, p_.a.column};
            kernels_.pack_left(a, std::min(kRowsPerPiece, m - from), depth, p_.pairs,
                               packed + m * (at - k) + from * words(depth));
        });
        if (!unpacked_back()) return;
        const int64_t n_panel = pieces_of(end - k, kLanes);
        uint8_t* panels = reinterpret_cast<uint8_t*>(packed + m * (end - k));
        run_on(pool_, serial_, n_panel, [&](int64_t i, int thread) {
            const int64_t panel = k / kLanes + i;
            const WeightView part = panels_of(*p_.b.weight, panel, panel + 1, memory_.panels(thread));
            std::copy_n(part.data, part.panel_bytes, panels + i * part.panel_bytes);
        });
    }

    void multiply_slab(int64_t row, int64_t m, int64_t k, int64_t end, const float* packed) {
        const int64_t n_chunk = pieces_of(p_.n, kColumnsTogether), wanted = kTasksPerThread * pool_.n_thread();
        const int64_t most = pieces_of(m, kRowsPerPiece);
        const int64_t parts = pool_.n_thread() == 1 ? 1 : std::clamp<int64_t>(wanted / n_chunk, 1, most);
        const int64_t rows = pieces_of(most, parts) * kRowsPerPiece, n_part = pieces_of(m, rows);
        run_on(pool_, serial_, n_chunk * n_part, [&](int64_t i, int thread) {
            const int64_t begin = i / n_part * kColumnsTogether, from = i % n_part * rows;
            const int64_t count = std::min(rows, m - from), n_end = std::min(p_.n, begin + kColumnsTogether);
            const WeightView view =
                unpacked() ? view_of_unpacked(begin, n_end, packed + m * (end - k), thread) : WeightView{};
            with_rows_of_c(p_.add || k > 0, row + from, count, begin, n_end, thread, [&](float* c, int64_t c_row) {
                for (int64_t at = k; at < end; at += kDepth) {
                    ProductTask t = task(row + from, count, at);
                    t.n_begin = begin, t.n_end = n_end;
                    t.c = c, t.c_row = c_row;
                    t.packed_a = packed + m * (at - k) + from * words(t.k);
                    if (unpacked()) begin_at_view(t, view, k);
                    kernels_.product(t, memory_.own(thread, kScratch));
                }
            });
        });
    }

    // Counts panels from the first one that the view has.
    void begin_at_view(ProductTask& t, const WeightView& view, int64_t k) const {
        t.b.weight = &view;
        if (p_.b.back) {
            t.k_begin -= k;
            return;
        }
        t.c += t.n_begin;
        if (t.bias) t.bias += t.n_begin;
        t.n_end -= t.n_begin, t.n_begin = 0;
    }

    bool unpacked() const { return p_.b.weight && p_.b.weight->data == nullptr; }
    bool unpacked_back() const { return unpacked() && p_.b.back; }

    // Room for the panels along k of a weight that is not packed, in floats.
    int64_t slab_of_weight(int64_t k) const {
        return unpacked_back() ? pieces_of(k, kLanes) * p_.b.weight->panel_bytes / 4 + kLanes : 0;
    }

    WeightView view_of_unpacked(int64_t begin, int64_t end, const float* packed, int thread) {
        if (!p_.b.back) return panels_of(*p_.b.weight, begin / kLanes, pieces_of(end, kLanes), memory_.panels(thread));
        WeightView view = *p_.b.weight;
        view.data = reinterpret_cast<const uint8_t*>(packed);
        return view;
    }

    const ProductKernels& kernels_;
    Pool& pool_;
    Workspace& memory_;
    Product p_;
    bool serial_;
};

}  // namespace

void run_on(Pool& pool, bool serial, int64_t n, const std::function<void(int64_t, int)>& body) {
    if (!serial) return pool.run(n, body);
    for (int64_t i = 0; i < n; ++i) body(i, 0);
}

float* Workspace::grown(std::unique_ptr<Arena>& arena, int64_t n_float) {
    const size_t wanted = size_t(std::max<int64_t>(n_float, 16)) * 4;
    if (!arena || arena->size() < wanted) {
        arena.reset();
        arena = std::make_unique<Arena>(wanted);
    }
    return reinterpret_cast<float*>(arena->data());
}

int64_t Workspace::n_bytes() const {
    int64_t n = (shared_ ? int64_t(shared_->size()) : 0) + (held_ ? int64_t(held_->size()) : 0);
    for (const auto& arena : own_) n += arena ? int64_t(arena->size()) : 0;
    return n;
}

WorkspaceFloats product_floats(int64_t m, int64_t n, int64_t k) {
    WorkspaceFloats most;
    const int64_t rows = std::min(m, kMostRows),
                  blocks = std::max<int64_t>(1, kSlab / std::max<int64_t>(rows * kDepth, 1));
    most.shared = rows * std::min(k, blocks * kDepth);
    if (std::min(m, n) <= kThin) most.shared = std::max(most.shared, pieces_of(k, kDepth) * kDepth * kThin);
    most.own = kScratch + (std::min(m, n) <= kThin ? kRowsPerPiece * kThin : 0);
    return most;
}

void multiply(const KernelTable& kernels, Pool& pool, Workspace& memory, const Product& product) {
    if (product.m == 0 || product.n == 0) return;
    if (product.k == 0) {
        for (int64_t i = 0; i < product.m && !product.add; ++i)
            for (int64_t j = 0; j < product.n; ++j)
                product.c[i * product.c_row + j * product.c_column] = product.bias ? product.bias[j] : 0.0f;
        return;
    }
    const Product p = of_plain_rows(product);
    Multiply(kernels, pool, memory, should_turn(p) ? turned(p) : p)();
}

}  // namespace lk::cpu
