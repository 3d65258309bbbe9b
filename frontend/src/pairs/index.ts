/** The second script of the page: it is embedded only when the page holds query and key. */

import { extend } from "../views/extensions";
import { PairsView } from "./view";

extend({ name: "pairs", title: "Pairs", make: (context) => new PairsView(context) });
