// Zeroed, 64-byte aligned memory, on huge pages where the system gives them.
#pragma once
#include <cstddef>
#include <cstdint>

namespace lk::cpu {

class Arena {
  public:
    Arena() = default;
    explicit Arena(size_t n_bytes);  // throws std::bad_alloc
    ~Arena();
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;
    Arena(Arena&& other) noexcept;
    Arena& operator=(Arena&& other) noexcept;

    uint8_t* data() const { return data_; }
    size_t size() const { return size_; }

  private:
    uint8_t* data_ = nullptr;
    size_t size_ = 0;
};

}  // namespace lk::cpu
