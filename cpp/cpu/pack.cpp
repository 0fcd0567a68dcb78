#include "cpu/pack.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "cpu/dispatch.h"
#include "formats/quants.h"

namespace lk::cpu {
namespace {

using namespace lk::formats;

constexpr size_t kHugePage = size_t(2) << 20;
constexpr int64_t kPanelsTogether = 4;  // that a thread packs one after the other

Packing packing_of(int type) {
    switch (type) {
        case Q4_0:
            return Packing::q4_0;
        case Q4_1:
            return Packing::q4_1;
        case Q5_0:
            return Packing::q5_0;
        case Q5_1:
            return Packing::q5_1;
        case Q8_0:
            return Packing::q8_0;
        case Q2_K:
            return Packing::q2_k;
        case Q3_K:
            return Packing::q3_k;
        case Q4_K:
            return Packing::q4_k;
        case Q5_K:
            return Packing::q5_k;
        case Q6_K:
            return Packing::q6_k;
        case IQ4_NL:
            return Packing::iq4_nl;
        case IQ4_XS:
            return Packing::iq4_xs;
        case MXFP4:
            return Packing::mxfp4;
        case IQ1_S:
            return Packing::iq1_s;
        case IQ1_M:
            return Packing::iq1_m;
        case IQ2_XXS:
            return Packing::iq2_xxs;
        case IQ2_XS:
            return Packing::iq2_xs;
        case IQ2_S:
            return Packing::iq2_s;
        case IQ3_XXS:
            return Packing::iq3_xxs;
        case IQ3_S:
            return Packing::iq3_s;
        case TQ1_0:
            return Packing::tq1_0;
        case TQ2_0:
            return Packing::tq2_0;
        case Q8_K:
            return Packing::q8_k;
        default:
            throw std::invalid_argument("tensor type " + std::to_string(type) + " has no panels");
    }
}

WeightView layout(int type, int64_t n_out, int64_t n_in) {
    WeightView v{};
    v.n_out = n_out, v.n_in = n_in;
    v.kind = type == F32    ? WeightKind::f32
             : type == F16  ? WeightKind::f16
             : type == BF16 ? WeightKind::bf16
                            : WeightKind::quantised;
    v.form = v.kind == WeightKind::bf16 ? ActForm::bf16 : ActForm::f32;
    if (v.kind == WeightKind::quantised) {
        v.packing = packing_of(type);
        v.form = kFormats[int(v.packing)].nested ? ActForm::int8_256 : ActForm::int8_32;
    }
    v.panel_bytes = kernels("").panel_bytes(v);
    return v;
}

int64_t panels(int64_t n_out) {
    return (n_out + kLanes - 1) / kLanes;
}

}  // namespace

Arena::Arena(size_t n_bytes) : size_(n_bytes) {
#if defined(__linux__)
    if (n_bytes >= kHugePage) {  // pages come, zeroed, when they are first touched: a large cache costs what is used
        void* mapped = mmap(nullptr, n_bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapped == MAP_FAILED) throw std::bad_alloc();
        mapped_ = static_cast<uint8_t*>(mapped);
        data_ = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(mapped) + kHugePage - 1) & ~(kHugePage - 1));
        // Only a wish: the system may refuse. What is left behind the last whole page stays in small ones.
        madvise(data_, n_bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
        return;
    }
#endif
    data_ = static_cast<uint8_t*>(::operator new(n_bytes, std::align_val_t(64), std::nothrow));
    if (data_ == nullptr) throw std::bad_alloc();
    std::memset(data_, 0, n_bytes);
}

Arena::~Arena() {
#if defined(__linux__)
    if (mapped_ != nullptr) {
        munmap(mapped_, size_ + kHugePage);
        return;
    }
#endif
    ::operator delete(data_, std::align_val_t(64));
}

ActForm act_form(int type) {
    return layout(type, kLanes, kSuper).form;
}

WeightView panels_of(const WeightView& weight, int64_t begin, int64_t end, std::vector<uint8_t>& memory) {
    WeightView part = weight;
    part.n_out = std::min(weight.n_out, end * kLanes) - begin * kLanes;
    if (weight.data != nullptr) {
        part.data = weight.data + begin * weight.panel_bytes;
        return part;
    }
    const KernelTable& table = kernels("");
    const size_t n = size_t((end - begin) * weight.panel_bytes);
    if (memory.size() < n + 64) memory.resize(n + 64);
    uint8_t* to = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
    std::memset(to, 0, n);
    for (int64_t p = begin; p < end; ++p)
        table.pack_panel(weight, weight.rows + p * kLanes * weight.row_bytes, weight.row_bytes,
                         int(std::min<int64_t>(kLanes, weight.n_out - p * kLanes)),
                         to + (p - begin) * weight.panel_bytes);
    part.data = to;
    return part;
}

void read_row(const KernelTable& kernels, const WeightView& weight, int64_t row, float* y) {
    if (weight.data != nullptr) return kernels.weight_row(weight, row, y);
    std::vector<uint8_t> memory;
    const int64_t panel = row / kLanes;
    kernels.weight_row(panels_of(weight, panel, panel + 1, memory), row % kLanes, y);
}

int64_t Weight::packed_bytes(int type, int64_t n_out, int64_t n_in, bool is_vector) {
    row_bytes(type, n_in);  // checks the type
    return is_vector ? n_out * n_in * 4 : layout(type, n_out, n_in).panel_bytes * panels(n_out);
}

Weight::Weight(int type, int64_t n_out, int64_t n_in, bool is_vector)
    : type_(type), is_vector_(is_vector), row_bytes_(row_bytes(type, n_in)) {
    if (is_vector_) {
        copy_.resize(size_t(n_out * n_in));
        vector = copy_.data();
    } else {
        view = layout(type, n_out, n_in);
        arena_ = std::make_unique<Arena>(size_t(view.panel_bytes * panels(n_out)));
        view.data = arena_->data();
    }
    if (is_vector_) view.n_out = n_out, view.n_in = n_in;
}

Weight::Weight(int type, int64_t n_out, int64_t n_in, const uint8_t* rows, size_t n, std::shared_ptr<void> owner)
    : type_(type), is_vector_(false), row_(n_out), row_bytes_(row_bytes(type, n_in)), owner_(std::move(owner)) {
    if (n != size_t(n_out * row_bytes_))
        throw std::invalid_argument("a tensor has " + std::to_string(n) + " bytes, its shape takes " +
                                    std::to_string(n_out * row_bytes_));
    view = layout(type, n_out, n_in);
    view.rows = rows, view.row_bytes = row_bytes_;
}

Weight::Weight(float* values, int64_t n_out, int64_t n_in, bool is_vector, std::shared_ptr<void> owner)
    : type_(F32), is_vector_(is_vector), row_(n_out), row_bytes_(n_in * 4), owner_(std::move(owner)) {
    view = layout(type_, n_out, n_in);
    view.rows = reinterpret_cast<const uint8_t*>(values), view.row_bytes = row_bytes_;
    if (is_vector) vector = values;
}

// Whole panels straight from `bytes`, by all threads; what is left over waits in `partial_` for the rest of its panel.
void Weight::append(const uint8_t* bytes, size_t n, Pool& pool) {
    if (n > size_t(row_bytes_) * size_t(view.n_out - row_) - partial_.size())
        throw std::invalid_argument("a tensor has more bytes than its shape takes");
    const size_t panel = size_t(row_bytes_) * kLanes;
    if (!partial_.empty()) {
        const size_t part = std::min(n, panel - partial_.size());
        partial_.insert(partial_.end(), bytes, bytes + part);
        bytes += part, n -= part;
        if (partial_.size() == panel) {
            pack(partial_.data(), kLanes, pool);
            partial_.clear();
        }
    }
    const int64_t whole = int64_t(n / panel) * kLanes;
    if (whole > 0) pack(bytes, whole, pool);
    const size_t done = size_t(whole) * size_t(row_bytes_);
    partial_.insert(partial_.end(), bytes + done, bytes + n);
}

void Weight::finish(Pool& pool) {
    const int64_t left = view.n_out - row_;
    if (partial_.size() != size_t(left * row_bytes_))
        throw std::invalid_argument("a tensor has fewer bytes than its shape takes");
    if (left > 0) pack(partial_.data(), left, pool);
    partial_ = {};
}

// The next `n` rows, the first of them at the start of a panel.
void Weight::pack(const uint8_t* rows, int64_t n, Pool& pool) {
    const int64_t first = row_ / kLanes;
    row_ += n;
    if (is_vector_) {
        for (int64_t r = 0; r < n; ++r)
            dequantize_row(type_, rows + r * row_bytes_, copy_.data() + (first * kLanes + r) * view.n_in, view.n_in);
        return;
    }
    const KernelTable& table = kernels("");
    const int64_t n_panel = (n + kLanes - 1) / kLanes;
    pool.run((n_panel + kPanelsTogether - 1) / kPanelsTogether, [&](int64_t chunk, int) {
        for (int64_t i = chunk * kPanelsTogether; i < std::min(n_panel, (chunk + 1) * kPanelsTogether); ++i) {
            const int64_t from = i * kLanes;
            table.pack_panel(view, rows + from * row_bytes_, row_bytes_, int(std::min<int64_t>(kLanes, n - from)),
                             arena_->data() + (first + i) * view.panel_bytes);
        }
    });
}

}  // namespace lk::cpu
