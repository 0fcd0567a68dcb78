#include "cpu/pack.h"

#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "formats/blocks.h"
#include "formats/half.h"
#include "formats/packing.h"
#include "formats/quants.h"

namespace lk::cpu {
namespace {

using namespace lk::formats;

constexpr size_t kHugePage = size_t(2) << 20;

// Values of a row as unsigned codes, with a scale and a minimum for each block of the panel format.
struct Codes {
    uint8_t* u;    // n_in
    float* scale;  // n_in / block
    float* minimum;
};

template <class Block>
Block load_block(const uint8_t* bytes, int64_t i) {
    Block b;
    std::memcpy(&b, bytes + i * int64_t(sizeof(Block)), sizeof b);
    return b;
}

template <class Block, class Fill>
void each_block(const uint8_t* bytes, int64_t n, int size, Fill fill) {
    for (int64_t i = 0; i < n / size; ++i) fill(load_block<Block>(bytes, i), i);
}

PanelFormat format_of(int type) {
    switch (type) {
        case Q4_0:
            return {false, 32, true, false, 8};
        case Q4_1:
            return {false, 32, true, true, 0};
        case Q5_0:
            return {true, 32, true, false, 16};
        case Q5_1:
            return {true, 32, true, true, 0};
        case Q8_0:
            return {true, 32, true, false, 128};
        case Q2_K:
            return {false, 16, false, true, 0};
        case Q3_K:
            return {false, 16, false, false, 4};
        case Q4_K:
            return {false, 32, false, true, 0};
        case Q5_K:
            return {true, 32, false, true, 0};
        case Q6_K:
            return {true, 16, false, false, 32};
        default:
            return {true, 32, false, false, 128};  // Q8_K
    }
}

void unpack_row(int type, const uint8_t* bytes, int64_t n, Codes c) {
    switch (type) {
        case Q4_0:
            each_block<BlockQ4_0>(bytes, n, 32, [&](const BlockQ4_0& b, int64_t i) {
                c.scale[i] = half_to_float(b.d);
                for (int j = 0; j < 32; ++j) c.u[32 * i + j] = j < 16 ? b.qs[j] & 15 : b.qs[j - 16] >> 4;
            });
            break;
        case Q4_1:
            each_block<BlockQ4_1>(bytes, n, 32, [&](const BlockQ4_1& b, int64_t i) {
                c.scale[i] = half_to_float(b.d), c.minimum[i] = half_to_float(b.m);
                for (int j = 0; j < 32; ++j) c.u[32 * i + j] = j < 16 ? b.qs[j] & 15 : b.qs[j - 16] >> 4;
            });
            break;
        case Q5_0:
            each_block<BlockQ5_0>(bytes, n, 32, [&](const BlockQ5_0& b, int64_t i) {
                c.scale[i] = half_to_float(b.d);
                for (int j = 0; j < 32; ++j) c.u[32 * i + j] = uint8_t(five_bits(b.qs, b.qh, j));
            });
            break;
        case Q5_1:
            each_block<BlockQ5_1>(bytes, n, 32, [&](const BlockQ5_1& b, int64_t i) {
                c.scale[i] = half_to_float(b.d), c.minimum[i] = half_to_float(b.m);
                for (int j = 0; j < 32; ++j) c.u[32 * i + j] = uint8_t(five_bits(b.qs, b.qh, j));
            });
            break;
        case Q8_0:
            each_block<BlockQ8_0>(bytes, n, 32, [&](const BlockQ8_0& b, int64_t i) {
                c.scale[i] = half_to_float(b.d);
                for (int j = 0; j < 32; ++j) c.u[32 * i + j] = uint8_t(b.qs[j] + 128);
            });
            break;
        case Q2_K:
            each_block<BlockQ2_K>(bytes, n, 256, [&](const BlockQ2_K& b, int64_t i) {
                const float d = half_to_float(b.d), dmin = half_to_float(b.dmin);
                for (int s = 0; s < 16; ++s) {
                    c.scale[16 * i + s] = d * float(b.scales[s] & 15);
                    c.minimum[16 * i + s] = -dmin * float(b.scales[s] >> 4);
                }
                for (int j = 0; j < 256; ++j) c.u[256 * i + j] = uint8_t(crumb(b.qs, j));
            });
            break;
        case Q3_K:
            each_block<BlockQ3_K>(bytes, n, 256, [&](const BlockQ3_K& b, int64_t i) {
                int8_t scales[16];
                unpack_scales_q3_k(b.scales, scales);
                const float d = half_to_float(b.d);
                for (int s = 0; s < 16; ++s) c.scale[16 * i + s] = d * float(scales[s]);
                for (int j = 0; j < 256; ++j)
                    c.u[256 * i + j] = uint8_t(crumb(b.qs, j) + 4 * ((b.hmask[j % 32] >> (j / 32)) & 1));
            });
            break;
        case Q4_K:
            each_block<BlockQ4_K>(bytes, n, 256, [&](const BlockQ4_K& b, int64_t i) {
                uint8_t scales[8], minima[8];
                unpack_scale_min_k4(b.scales, scales, minima);
                const float d = half_to_float(b.d), dmin = half_to_float(b.dmin);
                for (int s = 0; s < 8; ++s) {
                    c.scale[8 * i + s] = d * float(scales[s]), c.minimum[8 * i + s] = -dmin * float(minima[s]);
                    for (int j = 0; j < 32; ++j) c.u[256 * i + 32 * s + j] = uint8_t(nibble_k(b.qs, s, j));
                }
            });
            break;
        case Q5_K:
            each_block<BlockQ5_K>(bytes, n, 256, [&](const BlockQ5_K& b, int64_t i) {
                uint8_t scales[8], minima[8];
                unpack_scale_min_k4(b.scales, scales, minima);
                const float d = half_to_float(b.d), dmin = half_to_float(b.dmin);
                for (int s = 0; s < 8; ++s) {
                    c.scale[8 * i + s] = d * float(scales[s]), c.minimum[8 * i + s] = -dmin * float(minima[s]);
                    for (int j = 0; j < 32; ++j)
                        c.u[256 * i + 32 * s + j] = uint8_t(nibble_k(b.qs, s, j) | (((b.qh[j] >> s) & 1) << 4));
                }
            });
            break;
        case Q6_K:
            each_block<BlockQ6_K>(bytes, n, 256, [&](const BlockQ6_K& b, int64_t i) {
                const float d = half_to_float(b.d);
                for (int s = 0; s < 16; ++s) c.scale[16 * i + s] = d * float(b.scales[s]);
                for (int j = 0; j < 256; ++j) c.u[256 * i + j] = uint8_t(six_bits(b.ql, b.qh, j));
            });
            break;
        case Q8_K:
            each_block<BlockQ8_K>(bytes, n, 256, [&](const BlockQ8_K& b, int64_t i) {
                for (int s = 0; s < 8; ++s) c.scale[8 * i + s] = b.d;
                for (int j = 0; j < 256; ++j) c.u[256 * i + j] = uint8_t(b.qs[j] + 128);
            });
            break;
    }
}

WeightView layout(int type, int64_t n_out, int64_t n_in) {
    WeightView v{};
    v.n_out = n_out, v.n_in = n_in;
    v.kind = type == F32    ? WeightKind::f32
             : type == F16  ? WeightKind::f16
             : type == BF16 ? WeightKind::bf16
                            : WeightKind::quantised;
    if (v.kind != WeightKind::quantised) {
        v.panel_bytes = n_in * kLanes * (v.kind == WeightKind::f32 ? 4 : 2);
    } else {
        v.format = format_of(type);
        const int64_t scales = n_in / v.format.block * kLanes * (v.format.half_scale ? 2 : 4);
        v.scale_offset = n_in * kLanes / (v.format.wide ? 1 : 2);
        v.min_offset = v.scale_offset + scales;
        v.panel_bytes = v.min_offset + (v.format.has_min ? scales : 0);
    }
    v.panel_bytes = (v.panel_bytes + 63) / 64 * 64;
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
        madvise(data_, n_bytes, MADV_HUGEPAGE);  // only a wish: the system may refuse
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

int64_t Weight::packed_bytes(int type, int64_t n_out, int64_t n_in, bool is_vector) {
    row_bytes(type, n_in);  // checks the type
    return is_vector ? n_out * n_in * 4 : layout(type, n_out, n_in).panel_bytes * panels(n_out);
}

Weight::Weight(int type, int64_t n_out, int64_t n_in, bool is_vector)
    : type_(type), is_vector_(is_vector), row_bytes_(row_bytes(type, n_in)) {
    if (is_vector_) {
        vector.resize(size_t(n_out * n_in));
    } else {
        view = layout(type, n_out, n_in);
        arena_ = std::make_unique<Arena>(size_t(view.panel_bytes * panels(n_out)));
        view.data = arena_->data();
    }
    if (is_vector_) view.n_out = n_out, view.n_in = n_in;
}

void Weight::append(const uint8_t* bytes, size_t n) {
    while (n > 0) {
        if (row_ >= view.n_out) throw std::invalid_argument("a tensor has more bytes than its shape takes");
        if (partial_.empty() && n >= size_t(row_bytes_)) {
            pack_row(row_++, bytes);
            bytes += row_bytes_, n -= size_t(row_bytes_);
            continue;
        }
        const size_t part = std::min(n, size_t(row_bytes_) - partial_.size());
        partial_.insert(partial_.end(), bytes, bytes + part);
        bytes += part, n -= part;
        if (partial_.size() == size_t(row_bytes_)) {
            pack_row(row_++, partial_.data());
            partial_.clear();
        }
    }
}

void Weight::finish() const {
    if (row_ != view.n_out || !partial_.empty())
        throw std::invalid_argument("a tensor has fewer bytes than its shape takes");
}

void Weight::pack_row(int64_t row, const uint8_t* bytes) {
    const int64_t n = view.n_in, lane = row % kLanes;
    if (is_vector_) return dequantize_row(type_, bytes, vector.data() + row * n, n);
    uint8_t* panel = const_cast<uint8_t*>(view.data) + row / kLanes * view.panel_bytes;
    if (view.kind != WeightKind::quantised) {
        const int64_t size = view.kind == WeightKind::f32 ? 4 : 2;
        for (int64_t k = 0; k < n; ++k) std::memcpy(panel + (k * kLanes + lane) * size, bytes + k * size, size_t(size));
        return;
    }
    const PanelFormat& f = view.format;
    std::vector<uint8_t> u(static_cast<size_t>(n));
    std::vector<float> scale(size_t(n / f.block)), minimum(size_t(n / f.block));
    unpack_row(type_, bytes, n, {u.data(), scale.data(), minimum.data()});
    for (int64_t k = 0; k < n; ++k) {
        const int64_t group = k / 4, plane = f.wide ? group : group / 2;
        uint8_t& cell = panel[(plane * kLanes + lane) * 4 + k % 4];
        cell = f.wide ? u[size_t(k)] : uint8_t(cell | (u[size_t(k)] << (group % 2 ? 4 : 0)));
    }
    for (int64_t b = 0; b < n / f.block; ++b) {
        const int64_t at = b * kLanes + lane;
        const float values[2] = {scale[size_t(b)], minimum[size_t(b)]};
        for (int part = 0; part < (f.has_min ? 2 : 1); ++part) {
            uint8_t* base = panel + (part ? view.min_offset : view.scale_offset);
            const uint16_t half = float_to_half(values[part]);  // exact: it was a half in the file
            if (f.half_scale)
                std::memcpy(base + 2 * at, &half, 2);
            else
                std::memcpy(base + 4 * at, &values[part], 4);
        }
    }
}

}  // namespace lk::cpu
