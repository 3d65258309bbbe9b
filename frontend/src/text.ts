/** The text alone, tinted (attviz.view(..., show="text")): for a cell of a notebook, or a frame in a post. */

import { address, open } from "./file";
import { fromHash } from "./model/hash";
import { Slim } from "./views/slim";

open((host, collection) => new Slim(host, collection, fromHash(address())));
