/** The script for pages whose tokens are patches of images. */

import { extend } from "../views/extensions";
import { PatchFigure } from "./patches";

extend({ name: "images", picture: (context) => new PatchFigure(context) });
