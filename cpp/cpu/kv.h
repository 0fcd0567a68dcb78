// The paged KV cache: one KVLayer a layer over one arena.
#pragma once
#include <vector>

#include "cpu/arena.h"
#include "cpu/types.h"

namespace lk::cpu {

class KV {
  public:
    KV(KVType type, int64_t n_layer, int64_t n_block, int32_t block_size, int64_t k_values, int64_t v_values);
    // Bytes that a cache of this shape takes; throws std::invalid_argument for rows that q8_0 cannot hold.
    static int64_t n_bytes(KVType type, int64_t n_layer, int64_t n_cell, int64_t k_values, int64_t v_values);

    const KVLayer& layer(int64_t i) const { return layers_.at(size_t(i)); }
    int64_t n_layer() const { return int64_t(layers_.size()); }
    int64_t n_block() const { return n_block_; }
    int32_t block_size() const { return block_size_; }
    int64_t n_cell() const { return n_block_ * block_size_; }
    // Bytes of one cell in the canonical layout: K, then V, in GGUF blocks.
    int64_t row_bytes() const;

    void copy_cell(int64_t from, int64_t to);
    void export_cell(int64_t layer, int64_t cell, uint8_t* out) const;
    void restore_cell(int64_t layer, int64_t cell, const uint8_t* in);

  private:
    template <class Visit>
    void visit(int64_t layer, int64_t cell, Visit visit) const;

    KVType type_;
    int64_t n_block_;
    int32_t block_size_;
    std::vector<KVLayer> layers_;
    Arena arena_;
};

}  // namespace lk::cpu
