#include "text/vocabulary.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <stdexcept>

namespace lk::text {

uint64_t hash_bytes(std::string_view bytes) {
    uint64_t hash = 0x9E3779B97F4A7C15u ^ bytes.size();
    size_t at = 0;
    for (; at + 8 <= bytes.size(); at += 8) {
        uint64_t word;
        std::memcpy(&word, bytes.data() + at, 8);
        hash = std::rotl((hash ^ word) * 0xD6E8FEB86659FD93u, 29);
    }
    uint64_t rest = 0;
    for (size_t i = at; i < bytes.size(); ++i) {
        rest |= static_cast<uint64_t>(static_cast<uint8_t>(bytes[i])) << 8 * (i - at);
    }
    hash = (hash ^ rest) * 0xD6E8FEB86659FD93u;
    hash = (hash ^ hash >> 32) * 0xD6E8FEB86659FD93u;
    return hash ^ hash >> 32;
}

Vocabulary::Vocabulary(std::string_view buffer, std::span<const Span> spans) {
    uint64_t total = 0;
    for (const Span& span : spans) {
        if (span.size > buffer.size() || span.start > buffer.size() - span.size) {
            throw std::invalid_argument("a token's text lies outside its buffer");
        }
        total += span.size;
    }
    constexpr uint64_t kMost = std::numeric_limits<int32_t>::max() / 2;
    if (total > kMost || spans.size() > kMost / 16) {
        throw std::invalid_argument("a vocabulary this large is not supported");
    }
    bytes_.reserve(total * 2);
    starts_.reserve(spans.size() + 1);
    grow(std::bit_ceil(spans.size() * 2 + 16));
    for (size_t i = 0; i < spans.size(); ++i) {
        const std::string_view text = buffer.substr(spans[i].start, spans[i].size);
        const int32_t id = append(text.empty() ? "[EMPTY_" + std::to_string(i) + "]" : std::string(text));
        insert(id);
    }
    n_tokens_ = static_cast<int32_t>(spans.size());
}

size_t Vocabulary::slot_of(std::string_view wanted, uint64_t hash) const {
    const size_t mask = slots_.size() - 1;
    for (size_t at = hash & mask;; at = (at + 1) & mask) {
        const Slot& slot = slots_[at];
        if (slot.id < 0 || (slot.tag == static_cast<uint32_t>(hash >> 32) && text(slot.id) == wanted)) {
            return at;
        }
    }
}

int32_t Vocabulary::find(std::string_view wanted) const {
    return wanted.size() > longest_ ? -1 : slots_[slot_of(wanted, hash_bytes(wanted))].id;
}

int32_t Vocabulary::intern(std::string_view wanted) {
    const int32_t known = find(wanted);
    if (known >= 0) {
        return known;
    }
    if (starts_.size() * 2 > slots_.size()) {
        grow(slots_.size() * 2);
        for (int32_t id = 0; id + 1 < static_cast<int32_t>(starts_.size()); ++id) {
            insert(id);
        }
    }
    const int32_t id = append(wanted);
    insert(id);
    return id;
}

void Vocabulary::insert(int32_t id) {
    const uint64_t hash = hash_bytes(text(id));
    Slot& slot = slots_[slot_of(text(id), hash)];
    if (slot.id < 0) {
        slot = {id, static_cast<uint32_t>(hash >> 32)};
    }
}

int32_t Vocabulary::append(std::string_view text) {
    bytes_ += text;
    starts_.push_back(static_cast<uint32_t>(bytes_.size()));
    longest_ = std::max(longest_, text.size());
    return static_cast<int32_t>(starts_.size()) - 2;
}

void Vocabulary::grow(size_t slots) {
    slots_.assign(slots, Slot{});
}

}  // namespace lk::text
