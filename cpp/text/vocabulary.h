// The texts of a vocabulary and the table from text to id.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lk::text {

struct Span {
    uint64_t start;
    uint64_t size;
};

uint64_t hash_bytes(std::string_view bytes);

// Texts in one block of memory, found by an open-addressing table. Ids below `n_tokens` are tokens; `intern` adds
// texts that only occur as halves of merges, with ids from there on. Of equal texts the first id is found.
class Vocabulary {
  public:
    // Throws std::invalid_argument where a span leaves the buffer.
    Vocabulary(std::string_view buffer, std::span<const Span> spans);

    int32_t n_tokens() const { return n_tokens_; }
    size_t longest() const { return longest_; }
    std::string_view text(int32_t id) const { return {bytes_.data() + starts_[id], starts_[id + 1] - starts_[id]}; }
    int32_t find(std::string_view text) const;  // -1 for none
    int32_t intern(std::string_view text);

  private:
    struct Slot {
        int32_t id = -1;
        uint32_t tag = 0;
    };
    size_t slot_of(std::string_view text, uint64_t hash) const;
    void insert(int32_t id);
    int32_t append(std::string_view text);
    void grow(size_t slots);

    std::string bytes_;
    std::vector<uint32_t> starts_{0};
    std::vector<Slot> slots_;
    int32_t n_tokens_ = 0;
    size_t longest_ = 0;
};

}  // namespace lk::text
