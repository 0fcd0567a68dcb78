#include "cpu/kv_cache.h"

#include <cmath>
#include <cstring>

namespace lk::cpu {
namespace {

int64_t value_bytes(KVType type) {
    return type == KVType::f32 ? 4 : type == KVType::q8_0 ? 1 : 2;
}

int64_t aligned(int64_t n) {
    return (n + 63) / 64 * 64;
}

// Bytes of the four parts of a layer: keys, values, and their scales.
struct Parts {
    int64_t k, v, k_scales, v_scales;
};

Parts parts(KVType type, int64_t n_cell, int64_t k_values, int64_t v_values) {
    const int64_t cells = (n_cell + kLanes - 1) / kLanes * kLanes, size = value_bytes(type);
    const int64_t scales = type == KVType::q8_0 ? cells / 32 * 2 : 0;
    return {aligned(cells * k_values * size), aligned(cells * v_values * size), aligned(scales * k_values),
            aligned(scales * v_values)};
}

}  // namespace

void fill_cos_sin(const Rope& rope, double position, double magnitude, float* out) {
    const size_t half = rope.inv_freq.size();
    for (size_t i = 0; i < half; ++i) {
        const double angle = position * rope.inv_freq[i];
        out[i] = float(std::cos(angle) * magnitude);
        out[half + i] = float(std::sin(angle) * magnitude);
    }
}

int64_t KVCache::bytes(KVType type, int64_t n_layer, int64_t n_cell, int64_t k_values, int64_t v_values) {
    const Parts p = parts(type, n_cell, k_values, v_values);
    return n_layer * (p.k + p.v + p.k_scales + p.v_scales);
}

KVCache::KVCache(KVType type, int64_t n_layer_, int64_t n_block_, int64_t block_size_, int64_t n_head_kv_,
                 int64_t dim_k_, int64_t dim_v_)
    : n_layer(n_layer_),
      n_block(n_block_),
      block_size(block_size_),
      n_head_kv(n_head_kv_),
      dim_k(dim_k_),
      dim_v(dim_v_),
      type_(type) {
    const int64_t k_values = n_head_kv * dim_k, v_values = n_head_kv * dim_v;
    const Parts p = parts(type, n_cell(), k_values, v_values);
    arena_ = std::make_unique<Arena>(size_t(bytes(type, n_layer, n_cell(), k_values, v_values)));
    uint8_t* at = arena_->data();
    for (int64_t i = 0; i < n_layer; ++i) {
        KVLayer layer{type, k_values, v_values, at, at + p.k, nullptr, nullptr};
        layer.k_scales = reinterpret_cast<uint16_t*>(at + p.k + p.v);
        layer.v_scales = reinterpret_cast<uint16_t*>(at + p.k + p.v + p.k_scales);
        layers.push_back(layer);
        at += p.k + p.v + p.k_scales + p.v_scales;
    }
}

int64_t KVCache::canonical_bytes() const {
    const int64_t values = layers[0].k_values + layers[0].v_values;
    return type_ == KVType::q8_0 ? values / 32 * 34 : values * value_bytes(type_);
}

// Calls move(stored bytes, how many, place in canonical form) for all of a cell.
template <class Move>
void KVCache::each_value(const KVLayer& l, int64_t cell, Move move) const {
    const int64_t size = value_bytes(type_), group = cell / kLanes, lane = cell % kLanes;
    const bool q8 = type_ == KVType::q8_0;
    int64_t to = 0;
    for (int64_t i = 0; i < l.k_values; ++i) {
        if (q8 && i % 32 == 0) {
            move(reinterpret_cast<uint8_t*>(l.k_scales + (group * (l.k_values / 32) + i / 32) * kLanes + lane), 2, to);
            to += 2;
        }
        move(l.k + ((group * l.k_values + i) * kLanes + lane) * size, size, to);
        to += size;
    }
    for (int64_t i = 0; i < l.v_values; ++i) {
        if (q8 && i % 32 == 0) {
            move(reinterpret_cast<uint8_t*>(l.v_scales + cell * (l.v_values / 32) + i / 32), 2, to);
            to += 2;
        }
        move(l.v + (cell * l.v_values + i) * size, size, to);
        to += size;
    }
}

void KVCache::export_cell(int64_t layer, int64_t cell, uint8_t* out) const {
    each_value(layers[size_t(layer)], cell,
               [out](uint8_t* stored, int64_t n, int64_t to) { std::memcpy(out + to, stored, size_t(n)); });
}

void KVCache::restore_cell(int64_t layer, int64_t cell, const uint8_t* in) {
    each_value(layers[size_t(layer)], cell,
               [in](uint8_t* stored, int64_t n, int64_t to) { std::memcpy(stored, in + to, size_t(n)); });
}

void KVCache::copy_block(int64_t source, int64_t destination) {
    std::vector<uint8_t> cell(static_cast<size_t>(canonical_bytes()));
    for (int64_t layer = 0; layer < n_layer; ++layer)
        for (int64_t i = 0; i < block_size; ++i) {
            export_cell(layer, source * block_size + i, cell.data());
            restore_cell(layer, destination * block_size + i, cell.data());
        }
}

void KVCache::shift(const KernelTable& kernels, const std::vector<int64_t>& source,
                    const std::vector<int64_t>& destination, const Rope* rope, double delta) {
    const int64_t k_values = n_head_kv * dim_k, v_values = n_head_kv * dim_v;
    const size_t n = source.size();
    std::vector<float> k(n * size_t(k_values)), v(n * size_t(v_values)), turned(static_cast<size_t>(k_values));
    std::vector<float> cos_sin(rope ? 2 * rope->inv_freq.size() : 0);
    if (rope) fill_cos_sin(*rope, delta, 1.0, cos_sin.data());
    for (const KVLayer& layer : layers) {
        for (size_t i = 0; i < n; ++i)
            kernels.kv_read(layer, source[i], &k[i * size_t(k_values)], &v[i * size_t(v_values)]);
        for (size_t i = 0; i < n; ++i) {
            const float* key = &k[i * size_t(k_values)];
            if (rope) {
                kernels.rope(key, cos_sin.data(), n_head_kv, dim_k, int64_t(cos_sin.size()), rope->adjacent,
                             turned.data());
                key = turned.data();
            }
            kernels.kv_write(layer, destination[i], key, &v[i * size_t(v_values)]);
        }
    }
}

}  // namespace lk::cpu
