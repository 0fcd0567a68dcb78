/* Runs before the style sheet, so that a chosen theme never flashes. */
(function () {
  var theme = "system";
  try {
    theme = JSON.parse(localStorage.getItem("llamakit.settings") || "{}").theme || theme;
  } catch (error) {
    // No storage, or none of ours: the system's theme.
  }
  document.documentElement.dataset.theme = theme;
})();
