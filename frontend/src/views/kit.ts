/** What the script for several documents takes from the page, so that it need not carry it a second time. */

import { decode, wholes } from "../data/codec";
import { card, fill, h, on, Segments, select, setOptions, tell } from "../dom";
import { Figure } from "../draw/figure";
import { drawHeat, heatLayout } from "../draw/heatmap";
import { drawStrip, stripLayout } from "../draw/strip";
import { decimate, tokenAxis } from "../draw/xaxis";
import { editRow, togglePin } from "../model/actions";
import { aggregate, AGGREGATE_NAMES } from "../model/aggregate";
import { diverging, rampColor, rampPixels } from "../model/color";
import { count, number, tick } from "../model/format";
import { divergingFit, fit } from "../model/scale";
import { Scene } from "../model/scene";
import { pieces, spelledAlone, visible } from "../model/tokens";
import { activeToken } from "./context";
import { openDialog } from "./dialog";

(globalThis as unknown as { attvizKit?: object }).attvizKit = { activeToken, aggregate, AGGREGATE_NAMES, card, count, decimate, decode, diverging, divergingFit, drawHeat, drawStrip, editRow, Figure, fill, fit, h, heatLayout, number, on, openDialog, pieces, rampColor, rampPixels, Scene, Segments, select, setOptions, spelledAlone, stripLayout, tell, tick, togglePin, tokenAxis, visible, wholes };
