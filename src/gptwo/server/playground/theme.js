// Runs before the page is drawn, so that a chosen appearance never flashes in the other one.
try {
  const chosen = localStorage.getItem("gptwo-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Without storage the system's appearance is taken.
}
