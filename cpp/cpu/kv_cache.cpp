#include "cpu/kv_cache.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

namespace lk::cpu {
namespace {

constexpr int64_t value_bytes(KVType type) {
    return type == KVType::f32 ? 4 : type == KVType::q8_0 ? 1 : 2;
}

int64_t aligned(int64_t n) {
    return (n + 63) / 64 * 64;
}

int64_t padded(KVType type, int64_t dim_k) {
    const int64_t together = kTogether[int(type)];
    return (dim_k + together - 1) / together * together;
}

// Bytes of the four parts of a layer: keys, values, and their scales.
struct Parts {
    int64_t k, v, k_scales, v_scales;
};

Parts parts(KVType type, int64_t n_cell, int64_t n_head, int64_t dim_k, int64_t dim_v) {
    const int64_t cells = (n_cell + kLanes - 1) / kLanes * kLanes, size = value_bytes(type);
    const int64_t scales = type == KVType::q8_0 ? cells / 16 : 0;  // two bytes for 32 values
    return {aligned(cells * n_head * padded(type, dim_k) * size), aligned(cells * n_head * dim_v * size),
            aligned(scales * n_head * dim_k), aligned(scales * n_head * dim_v)};
}

}  // namespace

void fill_cos_sin(const Rope& rope, double position, double magnitude, float* out) {
    const size_t half = rope.inv_freq.size();
    for (size_t i = 0; i < half; ++i) {
        const double angle = (rope.inverse ? -position : position) * rope.inv_freq[i];
        out[i] = float(std::cos(angle) * magnitude);
        out[half + i] = float(std::sin(angle) * magnitude);
    }
}

int64_t KVCache::bytes(KVType type, const std::vector<KVShape>& shapes, int64_t n_cell) {
    int64_t sum = 0;
    for (const KVShape& shape : shapes) {
        const Parts p = parts(type, n_cell, shape.n_head, shape.dim_k, shape.dim_v);
        sum += p.k + p.v + p.k_scales + p.v_scales;
    }
    return sum;
}

KVCache::KVCache(KVType type, const std::vector<KVShape>& shapes, int64_t n_block_, int64_t block_size_)
    : n_block(n_block_), block_size(block_size_), type_(type) {
    arena_ = std::make_unique<Arena>(size_t(bytes(type, shapes, n_cell())));
    uint8_t* at = arena_->data();
    for (const KVShape& shape : shapes) {
        const Parts p = parts(type, n_cell(), shape.n_head, shape.dim_k, shape.dim_v);
        KVLayer layer{type, shape.n_head, shape.dim_k, shape.dim_v, padded(type, shape.dim_k),
                      at,   at + p.k,     nullptr,     nullptr};
        layer.k_scales = reinterpret_cast<uint16_t*>(at + p.k + p.v);
        layer.v_scales = reinterpret_cast<uint16_t*>(at + p.k + p.v + p.k_scales);
        layers.push_back(layer);
        at += p.k + p.v + p.k_scales + p.v_scales;
    }
}

int64_t KVCache::canonical_bytes() const {
    int64_t most = 0;
    for (const KVLayer& l : layers) {
        const int64_t values = l.n_head * (l.dim_k + l.dim_v);
        most = std::max(most, type_ == KVType::q8_0 ? values / 32 * 34 : values * value_bytes(type_));
    }
    return most;
}

namespace {

// Calls move(stored bytes, place in canonical form, how many) for all of a cell of a layer, with numbers of bytes that
// the compiler knows: a cache has millions of values.
template <KVType type, class Move>
void each_value(const KVLayer& l, int64_t cell, Move move) {
    constexpr int64_t size = value_bytes(type), p = kTogether[int(type)];
    constexpr bool q8 = type == KVType::q8_0;
    const int64_t group = cell / kLanes, lane = cell % kLanes, n_k = l.n_head * l.dim_k, n_v = l.n_head * l.dim_v;
    int64_t to = 0;
    const auto value = [&](uint8_t* stored, int64_t i, uint16_t* scales, int64_t stride) {
        if (q8 && i % 32 == 0) {
            move(reinterpret_cast<uint8_t*>(scales + i / 32 * stride), to, std::integral_constant<size_t, 2>());
            to += 2;
        }
        move(stored, to, std::integral_constant<size_t, size_t(size)>());
        to += size;
    };
    uint16_t* const k_scales = q8 ? l.k_scales + group * (n_k / 32) * kLanes + lane : nullptr;
    uint16_t* const v_scales = q8 ? l.v_scales + cell * (n_v / 32) : nullptr;
    for (int64_t h = 0; h < l.n_head; ++h) {
        uint8_t* const at = l.k + ((group * l.n_head + h) * l.pad_k * kLanes + lane * p) * size;
        for (int64_t d = 0; d < l.dim_k; ++d)
            value(at + (d / p * kLanes * p + d % p) * size, h * l.dim_k + d, k_scales, kLanes);
    }
    for (int64_t h = 0; h < l.n_head; ++h) {
        uint8_t* const at = l.v + (((group * l.n_head + h) * kLanes + lane / p * p) * l.dim_v + lane % p) * size;
        for (int64_t d = 0; d < l.dim_v; ++d) value(at + d * p * size, h * l.dim_v + d, v_scales, 1);
    }
}

template <class Move>
void each_value_of(const KVLayer& l, int64_t cell, Move move) {
    switch (l.type) {
        case KVType::f32:
            return each_value<KVType::f32>(l, cell, move);
        case KVType::f16:
            return each_value<KVType::f16>(l, cell, move);
        case KVType::bf16:
            return each_value<KVType::bf16>(l, cell, move);
        case KVType::q8_0:
            return each_value<KVType::q8_0>(l, cell, move);
    }
}

}  // namespace

void KVCache::export_cell(int64_t layer, int64_t cell, uint8_t* out) const {
    each_value_of(layers[size_t(layer)], cell,
                  [out](uint8_t* stored, int64_t to, auto n) { std::memcpy(out + to, stored, n()); });
}

void KVCache::restore_cell(int64_t layer, int64_t cell, const uint8_t* in) {
    each_value_of(layers[size_t(layer)], cell,
                  [in](uint8_t* stored, int64_t to, auto n) { std::memcpy(stored, in + to, n()); });
}

void KVCache::copy_block(int64_t source, int64_t destination) {
    if (block_size % kLanes == 0) {  // a block is whole groups: four pieces of memory a layer
        for (const KVLayer& l : layers) {
            const auto copy = [&](uint8_t* data, int64_t cell_bytes) {
                const int64_t n = block_size * cell_bytes;
                if (n > 0) std::memcpy(data + destination * n, data + source * n, size_t(n));
            };
            const int64_t scales = type_ == KVType::q8_0 ? l.n_head : 0;
            copy(l.k, l.n_head * l.pad_k * value_bytes(type_));
            copy(l.v, l.n_head * l.dim_v * value_bytes(type_));
            copy(reinterpret_cast<uint8_t*>(l.k_scales), scales * l.dim_k / 32 * 2);
            copy(reinterpret_cast<uint8_t*>(l.v_scales), scales * l.dim_v / 32 * 2);
        }
        return;
    }
    std::vector<uint8_t> cell(static_cast<size_t>(canonical_bytes()));
    for (int64_t layer = 0; layer < n_layer(); ++layer)
        for (int64_t i = 0; i < block_size; ++i) {
            export_cell(layer, source * block_size + i, cell.data());
            restore_cell(layer, destination * block_size + i, cell.data());
        }
}

void KVCache::shift(const KernelTable& kernels, const std::vector<int64_t>& source,
                    const std::vector<int64_t>& destination, const std::vector<std::shared_ptr<Rope>>& ropes,
                    double delta) {
    const size_t n = source.size();
    std::vector<float> k, v, turned, cos_sin;
    for (size_t at = 0; at < layers.size(); ++at) {
        const KVLayer& layer = layers[at];
        const Rope* rope = ropes[at].get();
        const size_t k_values = size_t(layer.n_head * layer.dim_k), v_values = size_t(layer.n_head * layer.dim_v);
        k.resize(n * k_values), v.resize(n * v_values), turned.resize(k_values);
        cos_sin.resize(rope ? 2 * rope->inv_freq.size() : 0);
        if (rope) fill_cos_sin(*rope, delta, 1.0, cos_sin.data());
        for (size_t i = 0; i < n; ++i) kernels.kv_read(layer, source[i], &k[i * k_values], &v[i * v_values]);
        for (size_t i = 0; i < n; ++i) {
            const float* key = &k[i * k_values];
            if (rope) {
                kernels.rope(key, cos_sin.data(), layer.n_head, layer.dim_k, int64_t(cos_sin.size()), rope->adjacent,
                             turned.data());
                key = turned.data();
            }
            kernels.kv_write(layer, destination[i], key, &v[i * v_values]);
        }
    }
}

}  // namespace lk::cpu
