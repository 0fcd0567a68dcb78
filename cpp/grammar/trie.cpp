#include "grammar/trie.h"

#include <algorithm>
#include <numeric>

namespace lk::grammar {
namespace {

constexpr size_t kLongestToken = 60000;  // bytes; depths are 16 bits

// Where in a character a text ends, and which byte may follow there.
struct Utf8 {
    int left = 0;
    uint8_t lo = 0x80, hi = 0xBF;
    bool bad = false;

    Utf8 read(uint8_t b) const {
        Utf8 next = *this;
        if (bad) return next;
        if (left > 0) {
            next.bad = b < lo || b > hi;
            next.left = left - 1, next.lo = 0x80, next.hi = 0xBF;
            return next;
        }
        next.lo = 0x80, next.hi = 0xBF;
        if (b < 0x80) return next;
        if (b >= 0xC2 && b <= 0xDF)
            next.left = 1;
        else if (b >= 0xE0 && b <= 0xEF)
            next.left = 2, next.lo = b == 0xE0 ? 0xA0 : 0x80, next.hi = b == 0xED ? 0x9F : 0xBF;
        else if (b >= 0xF0 && b <= 0xF4)
            next.left = 3, next.lo = b == 0xF0 ? 0x90 : 0x80, next.hi = b == 0xF4 ? 0x8F : 0xBF;
        else
            next.bad = true;
        return next;
    }
};

}  // namespace

Trie::Trie(std::vector<std::string> pieces, const std::vector<int32_t>& excluded, std::vector<int32_t> ends)
    : pieces_(std::move(pieces)), excluded_(pieces_.size()), is_end_(pieces_.size()), ends_(std::move(ends)) {
    for (const int32_t id : excluded)
        if (id >= 0 && size_t(id) < pieces_.size()) excluded_[size_t(id)] = true;
    std::erase_if(ends_, [&](int32_t id) { return id < 0 || size_t(id) >= pieces_.size(); });
    for (const int32_t id : ends_) excluded_[size_t(id)] = is_end_[size_t(id)] = true;
    for (size_t i = 0; i < pieces_.size(); ++i)
        if (pieces_[i].empty() || pieces_[i].size() > kLongestToken) excluded_[i] = true;
    for (size_t i = 0; i < pieces_.size(); ++i)
        if (!excluded_[i]) order.push_back(int32_t(i)), longest = std::max(longest, pieces_[i].size());
    std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
        const int c = pieces_[size_t(a)].compare(pieces_[size_t(b)]);
        return c != 0 ? c < 0 : a < b;
    });
    nodes.push_back({0, 0, 0, 0, 0, 0});
    std::vector<int32_t> path{0};  // nodes from the root to the last token's
    std::string last;
    const auto leave = [&](size_t depth, int32_t at) {
        while (path.size() > depth + 1) {
            nodes[size_t(path.back())].end = int32_t(nodes.size());
            nodes[size_t(path.back())].tokens_end = at;
            path.pop_back();
        }
    };
    for (size_t i = 0; i < order.size(); ++i) {
        const std::string& piece = pieces_[size_t(order[i])];
        size_t common = 0;
        while (common < piece.size() && common < last.size() && piece[common] == last[common]) ++common;
        leave(common, int32_t(i));
        for (size_t d = common; d < piece.size(); ++d) {
            path.push_back(int32_t(nodes.size()));
            const int32_t at = int32_t(i);
            nodes.push_back({uint8_t(piece[d]), uint16_t(d + 1), 0, at, at, at});
        }
        nodes[size_t(path.back())].own_end = int32_t(i) + 1;
        last = piece;
    }
    leave(0, int32_t(order.size()));
    nodes[0].end = int32_t(nodes.size()), nodes[0].tokens_end = int32_t(order.size());
    by_length = order;
    std::stable_sort(by_length.begin(), by_length.end(),
                     [&](int32_t a, int32_t b) { return pieces_[size_t(a)].size() > pieces_[size_t(b)].size(); });
    describe();
}

void Trie::describe() {
    below.resize(nodes.size());
    std::vector<Utf8> at(longest + 2);
    std::vector<int32_t> parents(longest + 2);
    std::vector<int32_t> parent(nodes.size(), 0);
    std::vector<Utf8> state(nodes.size());
    for (size_t i = 1; i < nodes.size(); ++i) {
        const size_t d = nodes[i].depth;
        state[i] = at[d] = at[d - 1].read(nodes[i].byte);
        parent[i] = d > 1 ? parents[d - 1] : 0;
        parents[d] = int32_t(i);
    }
    for (size_t i = nodes.size(); i-- > 1;) {  // children are behind their parents
        Below& up = below[size_t(parent[i])];
        const Below& me = below[i];
        const uint8_t byte = nodes[i].byte;
        up.ascii[0] |= me.ascii[0], up.ascii[1] |= me.ascii[1];
        if (byte < 0x80) up.ascii[byte / 64] |= uint64_t(1) << (byte % 64);
        up.wide |= me.wide || byte >= 0x80;
        below[i].bad |= state[i].bad;
        up.bad |= below[i].bad;
    }
    for (size_t i = 1; i < nodes.size(); ++i) {
        const Utf8& before = state[size_t(parent[i])];
        below[i].begins = before.left == 0 && !before.bad;
    }
}

}  // namespace lk::grammar
