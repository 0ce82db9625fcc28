// The page that stands in when there is no network: it goes as soon as there is one.

addEventListener("online", () => location.reload());
