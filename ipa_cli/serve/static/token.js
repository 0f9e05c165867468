// The dialog that asks for the token.

import { askForTokens } from "./api.js";

const byId = (id) => document.getElementById(id);

askForTokens(
  (refused) =>
    new Promise((resolve) => {
      const dialog = byId("token-dialog");
      if (refused) byId("token-hint").textContent = "That was not the token of this server. Try again.";
      byId("token").value = "";
      dialog.oncancel = (event) => event.preventDefault(); // without a token there is nothing to see
      byId("token-form").onsubmit = (event) => {
        event.preventDefault();
        dialog.close();
        resolve(byId("token").value.trim());
      };
      dialog.showModal();
    }),
);
