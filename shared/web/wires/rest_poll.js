// Long polling in a browser: POST /turns, then GET its events again and again. REST's other, named way: tokens as they come.

import { Wire as Rest } from "./rest.js";

export const title = "REST long-polling";
export const note = "a request for each batch of events";

export class Wire extends Rest {
  async *chat(body, key) {
    const turn = await this.api.startTurn(body, key);
    yield* this.read(turn.turn_id, 0);
  }
}
