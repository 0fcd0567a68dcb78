#include "cpu/weight.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "cpu/unpack.h"
#include "formats/half.h"
#include "formats/quants.h"

namespace lk::cpu {
namespace {

int64_t align64(int64_t n) {
    return (n + 63) / 64 * 64;
}

void put_scale(const PanelFormat& f, uint8_t* at, int64_t i, float value) {
    if (f.half_scale) {
        const uint16_t half = formats::float_to_half(value);  // exact: it came from a float16
        std::memcpy(at + 2 * i, &half, 2);
    } else {
        std::memcpy(at + 4 * i, &value, 4);
    }
}

}  // namespace

WeightView layout(int type, int64_t n_out, int64_t n_in) {
    formats::row_bytes(type, n_in);  // checks both
    WeightView v{};
    v.n_out = n_out, v.n_in = n_in;
    if (type == formats::F32 || type == formats::F16 || type == formats::BF16) {
        v.kind = type == formats::F32 ? WeightKind::f32 : type == formats::F16 ? WeightKind::f16 : WeightKind::bf16;
        v.panel_bytes = n_in * kLanes * (v.kind == WeightKind::f32 ? 4 : 2);
        return v;
    }
    v.kind = WeightKind::quantised;
    v.format = format_of(type);
    const int64_t scales = n_in / v.format.block * kLanes * (v.format.half_scale ? 2 : 4);
    v.scale_offset = align64(n_in * kLanes / (v.format.wide ? 1 : 2));
    v.min_offset = v.scale_offset + align64(scales);
    v.panel_bytes = v.min_offset + (v.format.has_min ? align64(scales) : 0);
    return v;
}

int64_t packed_bytes(const WeightView& v) {
    return (v.n_out + kLanes - 1) / kLanes * v.panel_bytes;
}

Weight::Weight(int type, int64_t n_out, int64_t n_in)
    : type_(type),
      view_(layout(type, n_out, n_in)),
      row_bytes_(formats::row_bytes(type, n_in)),
      arena_(size_t(packed_bytes(view_))) {
    view_.data = arena_.data();
}

void Weight::feed(const uint8_t* bytes, int64_t n) {
    while (n > 0) {
        if (row_ >= view_.n_out) throw std::invalid_argument("more bytes than the tensor has");
        if (carry_.empty() && n >= row_bytes_) {
            pack(row_++, bytes);
            bytes += row_bytes_, n -= row_bytes_;
            continue;
        }
        const int64_t part = std::min(n, row_bytes_ - int64_t(carry_.size()));
        carry_.insert(carry_.end(), bytes, bytes + part);
        bytes += part, n -= part;
        if (int64_t(carry_.size()) == row_bytes_) {
            pack(row_++, carry_.data());
            carry_.clear();
        }
    }
}

void Weight::finish() {
    if (row_ != view_.n_out)
        throw std::invalid_argument("the tensor ends after " + std::to_string(row_) + " of " +
                                    std::to_string(view_.n_out) + " rows");
    carry_ = {};
}

void Weight::pack(int64_t row, const uint8_t* bytes) {
    uint8_t* panel = arena_.data() + row / kLanes * view_.panel_bytes;
    const int64_t lane = row % kLanes, n = view_.n_in;
    if (view_.kind != WeightKind::quantised) {
        const int64_t size = view_.kind == WeightKind::f32 ? 4 : 2;
        for (int64_t k = 0; k < n; ++k) std::memcpy(panel + (k * kLanes + lane) * size, bytes + k * size, size_t(size));
        return;
    }
    const PanelFormat& f = view_.format;
    std::vector<uint8_t> u(static_cast<size_t>(n));
    std::vector<float> scales(size_t(n / f.block)), mins(scales.size());
    unpack_row(type_, bytes, n, {u.data(), scales.data(), mins.data()});
    for (int64_t k = 0; k < n; ++k) {
        const int64_t group = k / 4, plane = f.wide ? group : group / 2;
        uint8_t& at = panel[(plane * kLanes + lane) * 4 + k % 4];
        at = uint8_t(f.wide ? u[size_t(k)] : at | (group % 2 ? u[size_t(k)] << 4 : u[size_t(k)]));
    }
    for (int64_t b = 0; b < n / f.block; ++b) {
        put_scale(f, panel + view_.scale_offset, b * kLanes + lane, scales[size_t(b)]);
        if (f.has_min) put_scale(f, panel + view_.min_offset, b * kLanes + lane, mins[size_t(b)]);
    }
}

}  // namespace lk::cpu
