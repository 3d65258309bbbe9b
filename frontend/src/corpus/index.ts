/** The second script for pages of several documents: comparing two of them, a token in all of them, the card of a head. */

import { extend } from "../views/extensions";
import { CompareView } from "./compare";
import { openHeadCard } from "./headcard";
import { openOccurrences } from "./occurrences";
import { ranking } from "./table";

extend({
  name: "corpus",
  tab: "compare",
  title: "Compare",
  make: (context) => new CompareView(context),
  suits: (collection) => collection.rows.length > 1 || collection.sides.length > 1,
  tools: { openHeadCard, openOccurrences, ranking },
});
