// The form of a backend in the admin: another provider has another form, and what is typed can be tried before it is saved.

document.addEventListener("DOMContentLoaded", () => {
  const test = document.querySelector("[data-test-connection]");
  if (!test) return;
  const { form } = test;
  const answer = document.querySelector("[data-test-answer]");

  test.hidden = false;
  test.addEventListener("click", async () => {
    test.disabled = true;
    answer.className = "";
    answer.textContent = "Asking…";
    const { isFine, sentence } = await ask(test.dataset.testConnection, new FormData(form));
    answer.className = isFine ? "fine" : "wrong";
    answer.textContent = sentence;
    test.disabled = false;
  });

  const provider = form.elements.namedItem("provider");
  if ("isNew" in test.dataset && provider) {
    provider.addEventListener("change", () => {
      location.search = new URLSearchParams({ provider: provider.value }).toString();
    });
  }
});

async function ask(address, body) {
  try {
    const response = await fetch(address, { method: "POST", body, credentials: "same-origin" });
    if (!response.ok) return { isFine: false, sentence: `The platform answered ${response.status}. Reload this page and try again.` };
    const { ok, sentence } = await response.json();
    return { isFine: ok, sentence };
  } catch {
    return { isFine: false, sentence: "The platform could not be reached." };
  }
}
